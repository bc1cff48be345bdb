"""Export the booster as ONNX.

Input `features` float32[n, k] (null = NaN), output `probabilities` float32[n, 2] (honest, fraud).

Both XGBoost and the ONNX tree operator compare float32 values with `<`. The sums of the leaves may differ in their
last bits, so outputs are compared with a tolerance, on real rows, before anything is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import xgboost as xgb
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from feature_repo.errors import ArtefactError
from training.feature_matrix import Matrix

INPUT: Final = "features"
OUTPUT: Final = "probabilities"
TOLERANCE: Final = 1e-6
"""Largest allowed absolute difference of a probability."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The ONNX bytes, the number of rows compared, and the largest difference found."""

    onnx: bytes
    compared: int
    max_difference: float


def export(booster: xgb.Booster, rows: Matrix) -> Exported:
    """Convert the booster and compare both on `rows` (float32[n, k]).

    Raises `ArtefactError` if a probability differs by more than `TOLERANCE`.
    """
    nameless = booster.copy()
    nameless.feature_names = [
        f"f{i}" for i in range(rows.shape[1])
    ]  # the converter reads columns by such names only
    model: Any = convert_xgboost(
        nameless, name="millstream", initial_types=[(INPUT, FloatTensorType([None, rows.shape[1]]))]
    )
    content: bytes = model.SerializeToString()
    expected = np.asarray(booster.inplace_predict(rows, missing=np.nan), np.float64)
    worst = float(np.abs(predict(content, rows) - expected).max(initial=0.0))
    if not worst <= TOLERANCE:
        raise ArtefactError(
            f"the ONNX export differs from XGBoost by {worst:.2e}, more than {TOLERANCE:.0e}",
            where=f"{len(rows)} test rows",
            todo="use versions of xgboost and onnxmltools that fit together",
        )
    return Exported(content, len(rows), worst)


def predict(content: bytes, rows: Matrix, *, threads: int = 1) -> npt.NDArray[np.float64]:
    """Return the probability of fraud per row, float64[n], computed as in the scorer."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run([OUTPUT], {INPUT: np.ascontiguousarray(rows, np.float32)})
    return np.asarray(probabilities, np.float64)[:, 1]


def golden(
    content: bytes, rows: Matrix, scores: npt.NDArray[np.float64], *, count: int = 16
) -> dict[str, Any]:
    """Return up to `count` rows from the lowest to the highest score and their predictions; nulls are None.

    The scorer checks a loaded model with them.
    """
    order = np.argsort(scores, kind="stable")
    chosen = rows[order[np.unique(np.linspace(0, len(order) - 1, count).astype(np.int64))]]
    inputs: Sequence[Sequence[float | None]] = [
        [None if np.isnan(value) else float(value) for value in row] for row in chosen
    ]
    return {"inputs": inputs, "predictions": [float(p) for p in predict(content, chosen)]}
