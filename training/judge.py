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


def judge(
    scores: Mapping[str, Scores], valid: Sample, test: Sample, config: TrainingConfig
) -> tuple[dict[str, Judged], dict[str, dict[str, Estimate]]]:
    """Each model judged; and per model after the first, by how much the first is better."""
    estimates, draws = evaluate.estimate(
        {name: evaluate.Ranking(test.target, score.test) for name, score in scores.items()},
        test.account,
        resamples=config.report.bootstrap,
        confidence=config.report.confidence,
        seed=config.model.seed,
    )
    judged = {}
    for name, score in scores.items():
        thresholds = threshold.choose(valid.target, score.valid, valid.amount, config.cost, days=valid.days)
        outcome = threshold.apply(test.target, score.test, test.amount, config.cost, thresholds)
        judged[name] = Judged(score, thresholds, outcome, estimates[name])
    first, *others = judged
    gaps = {
        name: evaluate.difference(draws[first], draws[name], confidence=config.report.confidence)
        for name in others
    }
    return judged, gaps
