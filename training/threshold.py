"""Choose the thresholds for review and decline that minimise the cost on labelled payments, exactly and without a grid.

A payment with a score of at least `decline` is declined, one with at least `review` is reviewed by an analyst, the
others are approved. Sorted by descending score, the cost of a pair of cuts is a sum of one term per cut, so the best
pair under a limit on the number of reviews is a sliding-window minimum (monotonic queue): O(n log n). Costs that
depend on the single payment follow C. Elkan, "The Foundations of Cost-Sensitive Learning", IJCAI 2001.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.settings import CostSettings

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Least scores for review and for decline; `review <= decline`."""

    review: float
    decline: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a pair of thresholds on a set of payments; costs and amounts are in major units."""

    payments: int
    frauds: int
    fraud_amount: float
    declined: int
    declined_frauds: int
    declined_fraud_amount: float
    reviewed: int
    reviewed_frauds: int
    reviewed_fraud_amount: float
    cost: float
    cost_of_approving_all: float

    @property
    def caught_share(self) -> float:
        """Share of the fraud amount that is declined or reviewed; NaN without fraud."""
        caught = self.declined_fraud_amount + self.reviewed_fraud_amount
        return caught / self.fraud_amount if self.fraud_amount else float("nan")


def _per_payment(target: npt.NDArray[np.uint8], amount: Floats, cost: CostSettings) -> tuple[Floats, Floats]:
    """Return the cost of each payment if approved, and if declined, float64[n] each. All reviews cost the same."""
    fraud = target.astype(bool)
    approved = np.where(fraud, cost.missed_fraud + cost.missed_fraud_share * amount, 0.0)
    declined = np.where(fraud, 0.0, cost.declined_good + cost.declined_good_share * amount)
    return approved, declined


def choose(
    target: npt.NDArray[np.uint8], score: Floats, amount: Floats, cost: CostSettings, *, days: float
) -> Thresholds:
    """Return the thresholds of lowest cost; of equal ones those that flag the fewest payments.

    `target` is uint8[n] (1 = fraud), `score` and `amount` float64[n] (major units), `days` the duration of the
    payments, for the limit on reviews per day.
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    approved, declined = (values[order] for values in _per_payment(target, amount, cost))

    # cut k: the k highest scores are above it. Payments with equal scores cannot be told apart.
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1, [len(ordered)]]).astype(np.int64)
    declining = _prefix(declined)[cuts] - cost.review * cuts  # decline the first k instead of reviewing them
    reviewing = (
        cost.review * cuts + _prefix(approved)[-1] - _prefix(approved)[cuts]
    )  # review k, approve the rest

    capacity = int(cost.reviews_per_day * days)
    first = np.searchsorted(
        cuts, cuts - capacity
    )  # earliest decline cut that leaves no more reviews than that
    best = _earliest_minimum(declining, first)
    review = int(np.argmin(declining[best] + reviewing))
    return Thresholds(
        review=_between(ordered, int(cuts[review])), decline=_between(ordered, int(cuts[best[review]]))
    )


def costs(
    target: npt.NDArray[np.uint8], score: Floats, amount: Floats, cost: CostSettings, thresholds: Thresholds
) -> Floats:
    """Return the cost of each payment under these thresholds, float64[n]."""
    approved, declined = _per_payment(target, amount, cost)
    return np.where(
        score >= thresholds.decline, declined, np.where(score >= thresholds.review, cost.review, approved)
    )


def apply(
    target: npt.NDArray[np.uint8], score: Floats, amount: Floats, cost: CostSettings, thresholds: Thresholds
) -> Outcome:
    """Return the result of the thresholds on these payments."""
    approved, _ = _per_payment(target, amount, cost)
    fraud = target.astype(bool)
    decline = score >= thresholds.decline
    review = (score >= thresholds.review) & ~decline
    return Outcome(
        payments=len(score),
        frauds=int(fraud.sum()),
        fraud_amount=float(amount[fraud].sum()),
        declined=int(decline.sum()),
        declined_frauds=int((decline & fraud).sum()),
        declined_fraud_amount=float(amount[decline & fraud].sum()),
        reviewed=int(review.sum()),
        reviewed_frauds=int((review & fraud).sum()),
        reviewed_fraud_amount=float(amount[review & fraud].sum()),
        cost=float(costs(target, score, amount, cost, thresholds).sum()),
        cost_of_approving_all=float(approved.sum()),
    )


def _prefix(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _earliest_minimum(values: Floats, first: Ints) -> Ints:
    """Return per i the index of the least of values[first[i] ..

    I], the first of equal ones; `first` is non-decreasing.
    """
    if not first.any():  # no limit: the minimum of all values so far
        running = np.minimum.accumulate(values)
        new = np.concatenate([[True], running[1:] < running[:-1]])
        return np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))
    window: deque[int] = deque()
    best = np.empty(len(values), np.int64)
    for i, start in enumerate(first.tolist()):
        while window and values[window[-1]] > values[i]:
            window.pop()
        window.append(i)
        while window[0] < start:
            window.popleft()
        best[i] = window[0]
    return best


def _between(ordered: Floats, cut: int) -> float:
    """Return a threshold with exactly `cut` scores above it, midway between its neighbours."""
    if cut == len(ordered):
        return 0.0
    above = ordered[cut - 1] if cut else max(1.0, float(ordered[0]))
    middle = (above + ordered[cut]) / 2
    return float(middle if middle > ordered[cut] else np.nextafter(ordered[cut], np.inf))
