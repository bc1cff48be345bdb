"""Metrics of a model with bootstrap intervals.

Ranking metrics are computed from one sort with a weight per payment, so a bootstrap resample is a vector of weights.
The bootstrap draws accounts, not payments (cluster bootstrap: A. C. Davison, D. V. Hinkley, "Bootstrap Methods and
their Application", 1997, 3.8), because the payments of one fraud depend on each other and intervals would be too
narrow. Weights are Poisson(1) instead of multinomial (N. Oza, S. Russell, "Online bagging and boosting", AISTATS
2001).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Targets = npt.NDArray[np.uint8]

METRICS: Final = ("average_precision", "roc_auc", "recall_at_1pct_fpr")
FPR: Final = 0.01
"""Recall is measured at the lowest threshold that flags at most this share of the honest payments."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


Estimates = Mapping[str, Estimate]


class Ranking:
    """Labelled payments sorted by descending score; payments with equal scores form one step."""

    def __init__(self, target: Targets, score: Floats) -> None:
        """Sort `target` (uint8[n], 1 = fraud) by `score` (float64[n], higher is more suspicious)."""
        order = np.argsort(-score, kind="stable")
        ordered = score[order]
        self._order = order
        self._fraud = target[order].astype(np.float64)
        self._ends = np.concatenate([np.flatnonzero(np.diff(ordered)), [len(ordered) - 1]])
        self.thresholds = ordered[self._ends]

    def counts(self, weight: Floats | None = None) -> tuple[Floats, Floats]:
        """Return the weights of frauds and of honest payments at or above each distinct score, float64[steps]."""
        ordered = np.ones(len(self._order)) if weight is None else weight[self._order]
        caught = np.cumsum(ordered * self._fraud)[self._ends]
        return caught, np.cumsum(ordered)[self._ends] - caught

    def metrics(self, weight: Floats | None = None) -> Floats:
        """Return `METRICS` in order, float64[3]; NaN if one of the two classes has no weight."""
        caught, alarms = self.counts(weight)
        frauds, honest = caught[-1], alarms[-1]
        if frauds <= 0 or honest <= 0:
            return np.full(len(METRICS), np.nan)
        new = np.diff(caught, prepend=0.0)
        flagged = np.maximum(caught + alarms, 1e-300)
        ap = float(np.sum(new * caught / flagged) / frauds)
        auc = 1.0 - float(np.sum(new * (alarms - np.diff(alarms, prepend=0.0) / 2))) / (frauds * honest)
        within = int(np.searchsorted(alarms, FPR * honest * (1 + 1e-12), side="right"))
        recall = float(caught[within - 1] / frauds) if within else 0.0
        return np.array([ap, auc, recall])


def estimate(
    rankings: Mapping[str, Ranking],
    accounts: npt.NDArray[Any],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[dict[str, dict[str, Estimate]], dict[str, npt.NDArray[np.float64]]]:
    """Return metrics with intervals per ranking, and the values per resample, float64[resamples, metrics].

    All rankings are of the same payments, whose accounts are `accounts`, and use the same resamples, so that the
    values of two models can be subtracted.
    """
    codes = np.unique(accounts, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    draws = {name: np.empty((resamples, len(METRICS))) for name in rankings}
    for i in range(resamples):
        weight = rng.poisson(1.0, int(codes.max()) + 1).astype(np.float64)[codes]
        for name, ranking in rankings.items():
            draws[name][i] = ranking.metrics(weight)
    estimates = {
        name: _intervals(ranking.metrics(), draws[name], confidence) for name, ranking in rankings.items()
    }
    return estimates, draws


def resample_totals(values: Floats, accounts: npt.NDArray[Any], *, resamples: int, seed: int) -> Floats:
    """Return the totals of the columns of `values` (float64[n, columns]) per resample, float64[resamples, columns].

    The resamples are those of `estimate` with the same seed.
    """
    names, codes = np.unique(accounts, return_inverse=True)
    by_account = np.stack([np.bincount(codes, column, len(names)) for column in values.T], axis=1)
    return np.asarray(np.random.default_rng(seed).poisson(1.0, (resamples, len(names))) @ by_account)


def interval(value: float, draws: Floats, confidence: float) -> Estimate:
    """Return a value with the quantiles of its resampled values `draws` as bounds (percentile bootstrap)."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def difference(one: Estimates, other: Estimates, draws: Floats, *, confidence: float) -> dict[str, Estimate]:
    """Return the difference of two models per metric; `draws` are the differences per resample."""
    gap = np.array([one[name].value - other[name].value for name in METRICS])
    return _intervals(gap, draws, confidence)


def by_fraud_type(
    target: Targets,
    fraud_type: npt.NDArray[Any],
    score: Floats,
    accounts: npt.NDArray[Any],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, tuple[int, dict[str, Estimate]]]:
    """Return, per type of fraud, the number of frauds and the metrics against all honest payments."""
    result = {}
    for kind in sorted({str(kind) for kind in fraud_type[target == 1] if kind is not None}):
        keep = (target == 0) | (fraud_type == kind)
        estimates, _ = estimate(
            {kind: Ranking(target[keep], score[keep])},
            accounts[keep],
            resamples=resamples,
            confidence=confidence,
            seed=seed,
        )
        result[kind] = (int(target[keep].sum()), estimates[kind])
    return result


def to_json(estimates: Estimates) -> dict[str, Any]:
    """Return metric -> value, and `intervals`: metric -> [low, high]."""
    return {
        **{name: e.value for name, e in estimates.items()},
        "intervals": {name: [e.low, e.high] for name, e in estimates.items()},
    }


def _intervals(values: Floats, draws: Floats, confidence: float) -> dict[str, Estimate]:
    return {name: interval(float(values[i]), draws[:, i], confidence) for i, name in enumerate(METRICS)}
