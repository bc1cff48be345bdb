"""The fallback model: trees on the features of the payment itself, for when the online store cannot be read.

Payments, split, parameters and the choice of thresholds are those of the champion; only columns are left out. It is
worth much less than the champion and more than fixed limits on the amount; report and manifest hold its metrics on
the same test days.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from training import evaluate, export, model
from training.ablation import Places, progress
from training.compare_models import ModelResult, Scores
from training.feature_matrix import FeatureSource
from training.labelled_rows import TrainingSet
from training.manifest import onnx_of, typical
from training.progress import Steps
from training.settings import TrainingConfig

NAME: Final = "fallback model (payment only)"
FILE: Final = "fallback.onnx"


@dataclass(frozen=True, slots=True)
class FallbackModel:
    """The trees, their features, the positions of these among the champion's (intp[k]), and their scores."""

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
) -> FallbackModel | None:
    """Train the fallback model; None if no feature of the service is computed from the payment alone."""
    names = [feature.name for feature in source.features]
    places = np.array([i for i, feature in enumerate(source.features) if feature.of_request], np.intp)
    if not len(places):
        return None
    train, valid, test = (data.of(name) for name in ("train", "valid", "test"))
    features = [names[place] for place in places]
    with steps.step("fallback", "Fallback model") as step:
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
            f"average precision {trained.chosen.average_precision:.3f} (validation)"
        )
    return FallbackModel(trained, features, places, scores)


def write(model: FallbackModel, result: ModelResult, data: TrainingSet) -> tuple[bytes, dict[str, Any]]:
    """Return the ONNX bytes and the manifest entry `fallback`, which has the same keys as that of the champion."""
    train, test = (data.matrix[np.ix_(data.of(name), model.places)] for name in ("train", "test"))
    exported = export.export(model.trained.booster, test)
    return exported.onnx, {
        "file": FILE,
        "features": list(model.features),
        "typical": dict(zip(model.features, typical(train), strict=True)),
        "onnx": onnx_of(),
        "threshold": asdict(result.thresholds),
        "metrics": {
            **evaluate.to_json(result.estimates),
            "amount_caught": result.caught.value,
            "cost": result.cost.value,
            "onnx_max_difference": exported.max_difference,
        },
        "trees": model.trained.chosen.trees,
        "golden": export.golden(exported.onnx, test, model.scores.test),
    }
