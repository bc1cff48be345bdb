"""Ablation: train the model of a run again on the features of smaller services, to measure what the other features add.

Payments, split, parameters, early stopping and the choice of thresholds are the same; only columns are left out. The
parameters are not tuned again, so a smaller service could do a little better with its own. All models are measured on
the same bootstrap resamples of the test days, so the interval of a gain is narrower than the intervals of the two
models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_repo.errors import DefinitionError
from training import model
from training.compare_models import ModelResult, Scores, compare_models, gap
from training.evaluate import Estimate
from training.feature_matrix import FeatureSource
from training.labelled_rows import Sample, TrainingSet
from training.progress import Step, Steps
from training.settings import TrainingConfig

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Level:
    """The result of one service, and its gain over the largest service whose features it contains."""

    service: str
    features: frozenset[str]
    trees: int
    result: ModelResult
    over: str | None
    """The service that the gain is measured against; None if there is no smaller one."""
    gain: Mapping[str, Estimate]
    """As `compare_models.gap`; empty without `over`."""


def smaller(source: FeatureSource, services: Sequence[str]) -> dict[str, Places]:
    """Return, per service, the positions of its features among those of the trained service, intp[k].

    Raises `DefinitionError` if a service has a feature that the trained one does not have.
    """
    names = [feature.name for feature in source.features]
    found = {}
    for service in dict.fromkeys(services):
        if service == source.service:
            continue
        wanted = source.columns_of(service)
        extra = [name for name in wanted if name not in names]
        if extra:
            more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
            raise DefinitionError(
                f"{service} has {', '.join(extra[:3])}{more}, which {source.service} does not have",
                where="compare_services",
                todo=f"name services whose features are all in {source.service}, or train the larger one with --service",
            )
        found[service] = np.array([names.index(name) for name in wanted], np.intp)
    return found


def score(
    data: TrainingSet,
    source: FeatureSource,
    services: Mapping[str, Places],
    chosen: model.Candidate,
    config: TrainingConfig,
    steps: Steps,
) -> dict[str, tuple[int, Scores]]:
    """Train a model on the columns of each service; return, per service, its number of trees and its scores."""
    settings = config.model.model_copy(update={"weighting": (chosen.weighting,)})
    train, valid, test = (data.of(name) for name in ("train", "valid", "test"))
    target = data.labels.target
    names = [feature.name for feature in source.features]
    found = {}
    for service, places in services.items():
        with steps.step(f"compare_{service}", f"Comparison: {service} ({len(places)} features)") as step:
            grown = model.fit(
                data.matrix[np.ix_(train, places)],
                target[train],
                data.matrix[np.ix_(valid, places)],
                target[valid],
                [names[place] for place in places],
                settings,
                progress(step),
            )
            found[service] = (
                grown.chosen.trees,
                Scores(
                    grown.predict(data.matrix[np.ix_(valid, places)]),
                    grown.predict(data.matrix[np.ix_(test, places)]),
                ),
            )
            step.found = f"{grown.chosen.trees} trees, average precision {grown.chosen.average_precision:.3f} (validation)"
    return found


def progress(step: Step) -> model.Progress:
    """Return a callback that shows each new tree on a step's progress bar."""
    return lambda _, tree, of, ap: step.advance(f"{ap:.4f}", tree, of)


def levels(
    source: FeatureSource,
    full: ModelResult,
    trees: int,
    services: Mapping[str, Places],
    scored: Mapping[str, tuple[int, Scores]],
    valid: Sample,
    test: Sample,
    config: TrainingConfig,
) -> list[Level]:
    """Return the results from the smallest service to the trained one; empty if there is nothing to compare."""
    if not scored:
        return []
    names = [feature.name for feature in source.features]
    result = compare_models({service: scores for service, (_, scores) in scored.items()}, valid, test, config)
    rows = [
        (service, frozenset(names[place] for place in services[service]), scored[service][0], result[service])
        for service in scored
    ]
    rows.append((source.service, frozenset(names), trees, full))
    rows.sort(key=lambda row: len(row[1]))
    made: list[Level] = []
    for service, features, grown, one in rows:
        below = [level for level in made if level.features < features]
        before = below[-1] if below else None
        gain = gap(one, before.result, confidence=config.report.confidence) if before else {}
        made.append(Level(service, features, grown, one, before.service if before else None, gain))
    return made
