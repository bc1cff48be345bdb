"""Trees as the scorer runs them: an ONNX session, with what a manifest says about it.

A champion is one, and so is its fallback.

After loading they must repeat their golden predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnxruntime

from feature_repo.errors import ArtefactError
from serving.models.verified_artefact import RESTORE

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

GOLDEN_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class Trees:
    """A loaded model: thresholds, ONNX session and the place of the fraud probability in its output.

    `typical` is float32 [features], the medians of the training rows; `golden` is (float32 [n, features], float64 [n]
    probabilities).
    """

    features: tuple[str, ...]
    review: float
    decline: float
    typical: Matrix
    golden: tuple[Matrix, Floats]
    session: onnxruntime.InferenceSession
    input: str
    output: str
    column: int

    @classmethod
    def load(cls, content: bytes, said: Mapping[str, Any], threads: int, where: Path, **more: Any) -> Self:
        """Load ONNX bytes; `said` is their part of the manifest, `more` are fields of a subclass.

        Raises `ArtefactError`, or KeyError, TypeError, ValueError or AttributeError for an incomplete manifest.
        """
        session = _session(content, threads, where)
        features = tuple(map(str, said["features"]))
        onnx = said.get("onnx", {})
        golden = _golden(said)
        made = cls(
            features=features,
            review=float(said["threshold"]["review"]),
            decline=float(said["threshold"]["decline"]),
            typical=_typical(said, features, golden[0]),
            golden=golden,
            session=session,
            input=str(onnx.get("input", "features")),
            output=str(onnx.get("output", "probabilities")),
            column=int(onnx.get("fraud_column", 1)),
            **more,
        )
        if wrong := made.problems():
            raise ArtefactError("; ".join(wrong), where=where, todo=RESTORE)
        made.check_golden(where)
        return made

    def predict(self, rows: npt.NDArray[Any]) -> Floats:
        """Return float64 [n], the probability of fraud per row of [n, features]; NaN is a missing value."""
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, as in training
            asked = np.ascontiguousarray(rows, np.float32)
        (made,) = self.session.run([self.output], {self.input: asked})
        return np.asarray(made, np.float64).reshape(len(rows), -1)[:, self.column]

    def decide(self, score: float) -> str:
        """Return approve, review or decline, by the thresholds of the manifest."""
        return "decline" if score >= self.decline else "review" if score >= self.review else "approve"

    def problems(self) -> list[str]:
        """Return what does not fit together; empty if everything does."""
        (asked,) = self.session.get_inputs()[:1]
        wrong = []
        if asked.name != self.input or asked.shape[-1] != len(self.features):
            wrong.append(
                f"the model's input is {asked.name} {asked.shape}, not {len(self.features)} features"
            )
        if self.output not in {o.name for o in self.session.get_outputs()}:
            wrong.append(f"the model has no output {self.output!r}")
        if not 0 <= self.review <= self.decline:
            wrong.append(f"thresholds out of order: review {self.review}, decline {self.decline}")
        return wrong

    def check_golden(self, where: Path) -> None:
        """Raise `ArtefactError` if the model does not repeat its golden predictions."""
        rows, predictions = self.golden
        try:
            worst = float(np.abs(self.predict(rows) - predictions).max())
        except Exception as error:  # the runtime raises many kinds, all of its own
            raise ArtefactError(f"the model cannot score: {error}", where=where, todo=RESTORE) from error
        if not worst <= GOLDEN_TOLERANCE:
            raise ArtefactError(
                f"golden predictions are off by {worst:.2e}",
                where=where,
                todo="use the onnxruntime version of the manifest, or train again",
            )


def _session(content: bytes, threads: int, where: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises many kinds, all of its own
        raise ArtefactError(
            f"the runtime cannot load the model: {error}", where=where, todo=RESTORE
        ) from error


def _golden(said: Mapping[str, Any]) -> tuple[Matrix, Floats]:
    rows = [[np.nan if v is None else float(v) for v in row] for row in said["golden"]["inputs"]]
    predictions = np.array(said["golden"]["predictions"], np.float64)
    if not rows or len(rows) != len(predictions) or {len(row) for row in rows} != {len(said["features"])}:
        raise ValueError("golden predictions do not fit the features")
    return np.array(rows, np.float32), predictions


def _typical(said: Mapping[str, Any], features: tuple[str, ...], rows: Matrix) -> Matrix:
    """Return the medians of the training rows, or for a model trained before manifests had them, of the golden rows."""
    stated = said.get("typical")
    if stated is None:
        return _middle(rows)
    return np.array([np.nan if stated[name] is None else stated[name] for name in features], np.float32)


def _middle(rows: Matrix) -> Matrix:
    """Return the median per feature, NaN if most are missing.

    Golden rows are spread evenly over the scores of the test set.
    """
    known = ~np.isnan(rows)
    middle = np.full(rows.shape[1], np.nan, np.float32)
    mostly = known.sum(axis=0) * 2 >= len(rows)
    middle[mostly] = np.nanmedian(rows[:, mostly], axis=0)
    return middle
