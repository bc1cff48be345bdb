"""Compare models: thresholds, metrics and costs of each, on the same test days and the same bootstrap resamples."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training import evaluate, threshold
from training.evaluate import Estimate
from training.labelled_rows import Sample
from training.settings import TrainingConfig
from training.threshold import Outcome, Thresholds

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one model for the payments of the validation and the test days, float64[rows] each."""

    valid: Floats
    test: Floats


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The result of one model: thresholds chosen on the validation days, all else measured on the test days."""

    scores: Scores
    thresholds: Thresholds
    outcome: Outcome
    estimates: Mapping[str, Estimate]
    caught: Estimate
    """Share of the fraud amount declined or reviewed."""
    cost: Estimate
    """Cost of all test payments. A few large frauds dominate it, so its interval is wide."""
    draws: Floats
    """`evaluate.METRICS` per resample, float64[resamples, metrics]; all models of a run have the same resamples."""
    spent: Floats
    """Cost per resample, float64[resamples]."""


def compare_models(
    scores: Mapping[str, Scores], valid: Sample, test: Sample, config: TrainingConfig
) -> dict[str, ModelResult]:
    """Return the result of each model; `scores`, `valid` and `test` are of the same payments."""
    estimates, draws = evaluate.estimate(
        {name: evaluate.Ranking(test.target, score.test) for name, score in scores.items()},
        test.account,
        resamples=config.report.bootstrap,
        confidence=config.report.confidence,
        seed=config.model.seed,
    )
    result = {}
    for name, score in scores.items():
        thresholds = threshold.choose(valid.target, score.valid, valid.amount, config.cost, days=valid.days)
        outcome = threshold.apply(test.target, score.test, test.amount, config.cost, thresholds)
        stolen = test.amount * test.target
        columns = [
            threshold.costs(test.target, score.test, test.amount, config.cost, thresholds),
            stolen * (score.test >= thresholds.review),
            stolen,
        ]
        totals = evaluate.resample_totals(
            np.stack(columns, axis=1),
            test.account,
            resamples=config.report.bootstrap,
            seed=config.model.seed,
        )
        caught = np.divide(
            totals[:, 1], totals[:, 2], out=np.full(len(totals), np.nan), where=totals[:, 2] > 0
        )
        result[name] = ModelResult(
            score,
            thresholds,
            outcome,
            estimates[name],
            caught=evaluate.interval(outcome.caught_share, caught, config.report.confidence),
            cost=evaluate.interval(outcome.cost, totals[:, 0], config.report.confidence),
            draws=draws[name],
            spent=totals[:, 0],
        )
    return result


def gap(one: ModelResult, other: ModelResult, *, confidence: float) -> dict[str, Estimate]:
    """Return by how much `one` is better than `other` per metric, and its saving (`saved`), on paired resamples."""
    saved = other.outcome.cost - one.outcome.cost
    return {
        **evaluate.difference(one.estimates, other.estimates, one.draws - other.draws, confidence=confidence),
        "saved": evaluate.interval(saved, other.spent - one.spent, confidence),
    }
