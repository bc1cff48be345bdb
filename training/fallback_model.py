"""A second model beside the champion, for when nothing can be read: trees on what the payment says about itself, and nothing else.

Same payments, same split, same parameters and same kind of thresholds as the champion; only columns are taken away. It is worth
much less, and more than fixed limits on the amount: the report and the manifest say how much, on the same test days.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from training import evaluate, export, model
from training.ablation import Places, progress
from training.compare_models import Judged, Scores
from training.feature_matrix import FeatureSource
from training.labelled_rows import TrainingSet
from training.manifest import onnx_of, typical
from training.progress import Steps
from training.settings import TrainingConfig

NAME: Final = "payment alone (fallback)"
FILE: Final = "fallback.onnx"


@dataclass(frozen=True, slots=True)
class Alone:
    """The trees, the places of their features in the champion's, and their scores on the held-out days."""

    trained: model.Trained
    features: Sequence[str]
    places: Places
    scores: Scores


def grow(
    data: TrainingSet,
    source: FeatureSource,
    chosen: model.Candidate,
    config: TrainingConfig,
    steps: Steps,
) -> Alone | None:
    """None when no feature of the service is made from the payment alone."""
    names = [feature.name for feature in source.features]
    places = np.array([i for i, feature in enumerate(source.features) if feature.of_request], np.intp)
    if not len(places):
        return None
    train, valid, test = (data.of(name) for name in ("train", "valid", "test"))
    features = [names[place] for place in places]
    with steps.step("fallback", "For when nothing can be read") as step:
        trained = model.fit(
            data.matrix[np.ix_(train, places)],
            data.labels.target[train],
            data.matrix[np.ix_(valid, places)],
            data.labels.target[valid],
            features,
            config.model.model_copy(update={"weighting": (chosen.weighting,)}),
            progress(step),
        )
        scores = Scores(
            trained.predict(data.matrix[np.ix_(valid, places)]),
            trained.predict(data.matrix[np.ix_(test, places)]),
        )
        step.found = (
            f"{len(places)} features, {trained.chosen.trees} trees, "
            f"{trained.chosen.average_precision:.3f} on validation"
        )
    return Alone(trained, features, places, scores)


def write(alone: Alone, judged: Judged, data: TrainingSet) -> tuple[bytes, dict[str, Any]]:
    """The ONNX bytes, and what the manifest says of them (`fallback`): the same keys as of the champion."""
    train, test = (data.matrix[np.ix_(data.of(name), alone.places)] for name in ("train", "test"))
    exported = export.export(alone.trained.booster, test)
    return exported.onnx, {
        "file": FILE,
        "features": list(alone.features),
        "typical": dict(zip(alone.features, typical(train), strict=True)),
        "onnx": onnx_of(),
        "threshold": asdict(judged.thresholds),
        "metrics": {
            **evaluate.to_json(judged.estimates),
            "amount_caught": judged.caught.value,
            "cost": judged.cost.value,
            "onnx_max_difference": exported.max_difference,
        },
        "trees": alone.trained.chosen.trees,
        "golden": export.golden(exported.onnx, test, alone.scores.test),
    }
