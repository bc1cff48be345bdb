"""The manifest of a model: one JSON object with all that is needed to check and use it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from training import evaluate, export
from training.ablation import Level
from training.feature_matrix import Feature, Matrix
from training.report import Findings


def manifest(found: Findings, features: Sequence[Feature], *, train: Matrix, test: Matrix) -> dict[str, Any]:
    """Return the manifest without `files`, which is added when the artefact is written.

    `train` and `test` are the feature matrices, float32[rows, features].
    """
    ours, config = found.ours, found.config
    return {
        "name": config.name,
        "version": found.version,
        "created": found.created.isoformat(),
        "service": found.service,
        "schema_hash": found.schema_hash,
        "features": [feature.name for feature in features],
        "feature_types": {feature.name: feature.kind for feature in features},
        "typical": dict(zip((feature.name for feature in features), typical(train), strict=True)),
        "onnx": onnx_of(),
        "threshold": asdict(ours.thresholds),
        "cost": config.cost.model_dump(),
        "data": {
            "rows": {
                name: {"payments": rows, "frauds": frauds} for name, (rows, frauds) in found.rows.items()
            },
            **{name: part.to_json() for name, part in found.split.items()},
            "label_delay_days": config.data.label_delay_days,
            "all_missing": list(found.all_missing),
        },
        "validation": {
            "success": found.validator.success,
            "expectations": sum(verdict.expectations for verdict in found.validator.verdicts),
            "failures": [str(failure) for failure in found.validator.failures],
        },
        "metrics": metrics(found),
        "model": {
            "settings": config.model.model_dump(),
            "candidates": [asdict(candidate) for candidate in found.trained.candidates],
            "chosen": asdict(found.trained.chosen),
            "importance": found.importance,
        },
        "libraries": dict(found.libraries),
        "golden": export.golden(found.exported.onnx, test, ours.scores.test),
    }


def onnx_of() -> dict[str, Any]:
    """Return names of input and output of the ONNX model, its column of fraud, and the tolerance of its outputs."""
    return {
        "input": export.INPUT,
        "output": export.OUTPUT,
        "fraud_column": 1,
        "tolerance": export.TOLERANCE,
    }


def typical(rows: Matrix) -> list[float | None]:
    """Return the median of each feature without nulls; None if most rows are null. Reasons compare payments with it."""
    middles: list[float | None] = []
    for column in rows.T:
        known = column[np.isfinite(column)]
        middles.append(float(np.median(known)) if 2 * len(known) >= len(column) else None)
    return middles


def metrics(found: Findings) -> dict[str, Any]:
    """Return the metrics on the test days.

    Of the model, per type of fraud, of its thresholds, and of the other models.
    """
    ours = found.ours
    return {
        **evaluate.to_json(ours.estimates),
        "by_fraud_type": {
            kind: {"frauds": frauds, **evaluate.to_json(estimates)}
            for kind, (frauds, estimates) in found.kinds.items()
        },
        "amount_caught": ours.caught.value,
        "amount_caught_interval": [ours.caught.low, ours.caught.high],
        "outcome": asdict(ours.outcome),
        "onnx_max_difference": found.exported.max_difference,
        "others": {
            name: {
                **evaluate.to_json(result.estimates),
                "amount_caught": result.caught.value,
                "cost": result.cost.value,
            }
            for name, result in list(found.models.items())[1:]
        },
        "test_days": found.test.days,
        "services": [_level(level) for level in found.levels],
    }


def _level(level: Level) -> dict[str, Any]:
    """Return the result of one service; costs are totals of the test days."""
    result = level.result
    return {
        "service": level.service,
        "features": len(level.features),
        "trees": level.trees,
        **evaluate.to_json(result.estimates),
        "amount_caught": result.caught.value,
        "amount_caught_interval": [result.caught.low, result.caught.high],
        "cost": result.cost.value,
        "cost_interval": [result.cost.low, result.cost.high],
        "gain": {"over": level.over, **{name: asdict(e) for name, e in level.gain.items()}}
        if level.over
        else None,
    }
