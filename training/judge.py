"""One judgement per model, all on the same test days, by the same cost table, with intervals from the same resamples."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training import evaluate, threshold
from training.evaluate import Estimate
from training.settings import TrainingConfig
from training.threshold import Outcome, Thresholds
from training.trainingset import Sample

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """What one model says about the payments of valid and of test."""

    valid: Floats
    test: Floats


@dataclass(frozen=True, slots=True)
class Judged:
    """One model: thresholds chosen on valid, everything else measured on test."""

    scores: Scores
    thresholds: Thresholds
    outcome: Outcome
    estimates: Mapping[str, Estimate]
    caught: Estimate
    """Share of the fraud amount declined or reviewed."""
    cost: Estimate
    """Cost of all test payments. A few large frauds decide it, hence its wide interval."""


def judge(
    scores: Mapping[str, Scores], valid: Sample, test: Sample, config: TrainingConfig
) -> tuple[dict[str, Judged], dict[str, dict[str, Estimate]]]:
    """Each model judged; and per model after the first, by how much the first is better and what it saves."""
    estimates, draws = evaluate.estimate(
        {name: evaluate.Ranking(test.target, score.test) for name, score in scores.items()},
        test.account,
        resamples=config.report.bootstrap,
        confidence=config.report.confidence,
        seed=config.model.seed,
    )
    judged, spent = {}, {}
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
        spent[name] = totals[:, 0]
        caught = np.divide(
            totals[:, 1], totals[:, 2], out=np.full(len(totals), np.nan), where=totals[:, 2] > 0
        )
        judged[name] = Judged(
            score,
            thresholds,
            outcome,
            estimates[name],
            caught=evaluate.interval(outcome.caught_share, caught, config.report.confidence),
            cost=evaluate.interval(outcome.cost, spent[name], config.report.confidence),
        )
    first, *others = judged
    gaps = {}
    for name in others:
        saved = judged[name].outcome.cost - judged[first].outcome.cost
        gaps[name] = {
            **evaluate.difference(draws[first], draws[name], confidence=config.report.confidence),
            "saved": evaluate.interval(saved, spent[name] - spent[first], config.report.confidence),
        }
    return judged, gaps
