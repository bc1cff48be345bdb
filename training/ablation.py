"""What a service's features bring: the run's own model, grown again on the features of smaller services alone.

Same payments, same split, same parameters, same early stopping, thresholds chosen in the same way; only columns are taken away.
Nothing is searched for again, so a smaller service may do a little better with parameters of its own. All are measured on the
same resamples of the test days, so the gain of one over the other has a narrower interval than either of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_repo.errors import DefinitionError
from training import model
from training.compare_models import Judged, Scores, gap, judge
from training.evaluate import Estimate
from training.feature_matrix import FeatureSource
from training.labelled_rows import Sample, TrainingSet
from training.progress import Step, Steps
from training.settings import TrainingConfig

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Level:
    """One service: what its features are worth, and what they gain over the largest smaller service."""

    service: str
    features: frozenset[str]
    trees: int
    judged: Judged
    over: str | None
    """The service the gain is over; None: there is no smaller one."""
    gain: Mapping[str, Estimate]
    """As `judge.gap`; empty without `over`."""


def smaller(source: FeatureSource, services: Sequence[str]) -> dict[str, Places]:
    """Columns of each named service in the trained one; raises `DefinitionError` when one has other features than those."""
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
    """Trees, and scores of valid and test, of the model grown on each service's columns."""
    settings = config.model.model_copy(update={"weighting": (chosen.weighting,)})
    train, valid, test = (data.of(name) for name in ("train", "valid", "test"))
    target = data.labels.target
    names = [feature.name for feature in source.features]
    found = {}
    for service, places in services.items():
        with steps.step(f"compare_{service}", f"Without {len(names) - len(places)} features") as step:
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
            step.found = f"{service}: {len(places)} features, {grown.chosen.trees} trees, {grown.chosen.average_precision:.3f} on validation"
    return found


def progress(step: Step) -> model.Progress:
    """Tells a step about every tree."""
    return lambda _, tree, of, ap: step.advance(f"{ap:.4f}", tree, of)


def levels(
    source: FeatureSource,
    full: Judged,
    trees: int,
    services: Mapping[str, Places],
    scored: Mapping[str, tuple[int, Scores]],
    valid: Sample,
    test: Sample,
    config: TrainingConfig,
) -> list[Level]:
    """Smallest service first, the trained one last; nothing when there is nothing to compare."""
    if not scored:
        return []
    names = [feature.name for feature in source.features]
    judged = judge({service: scores for service, (_, scores) in scored.items()}, valid, test, config)
    rows = [
        (service, frozenset(names[place] for place in services[service]), scored[service][0], judged[service])
        for service in scored
    ]
    rows.append((source.service, frozenset(names), trees, full))
    rows.sort(key=lambda row: len(row[1]))
    made: list[Level] = []
    for service, features, grown, one in rows:
        below = [level for level in made if level.features < features]
        before = below[-1] if below else None
        gain = gap(one, before.judged, confidence=config.report.confidence) if before else {}
        made.append(Level(service, features, grown, one, before.service if before else None, gain))
    return made
