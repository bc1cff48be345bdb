"""A trained model as the scorer uses it: loaded from its directory after every file in it was held to its hash.

Nothing is unpickled and no code is taken from the artefact: trees come as ONNX, the reading plan as JSON, on-demand
functions from the installed feature repo, and only if they are the ones the model was trained with. After loading, the
model must repeat its golden predictions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from feature_repo.errors import ArtefactError, DefinitionError
from feature_repo.stores.plan import Plan
from feature_repo.stores.reader import Reader

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

MANIFEST: Final = "manifest.json"
ALIAS: Final = "champion"
NEEDED: Final = ("model.onnx", "plan.json")
GOLDEN_TOLERANCE: Final = 1e-6
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_RESTORE: Final = "do not use it: train again, or restore the directory"


@dataclass(frozen=True)
class Model:
    """One version. `predict` gives probabilities, `reader` the vectors it wants, `typical` the middle of what it was trained on."""

    name: str
    version: str
    created: str
    service: str
    schema_hash: str
    features: tuple[str, ...]
    review: float
    decline: float
    metrics: Mapping[str, Any]
    data: Mapping[str, Any]
    reader: Reader
    typical: Matrix
    _session: onnxruntime.InferenceSession
    _input: str
    _output: str
    _column: int

    def predict(self, rows: npt.NDArray[Any]) -> Floats:
        """Probability of fraud per row of [n, features]; NaN is missing."""
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, as in training
            asked = np.ascontiguousarray(rows, np.float32)
        (made,) = self._session.run([self._output], {self._input: asked})
        return np.asarray(made, np.float64).reshape(len(rows), -1)[:, self._column]

    def decide(self, score: float) -> str:
        """By the thresholds of the manifest."""
        return "decline" if score >= self.decline else "review" if score >= self.review else "approve"


def champion_version(folder: Path) -> str:
    """The version the alias file names. Raises `ArtefactError` when there is none."""
    try:
        version = (folder / ALIAS).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ArtefactError("there is no champion", where=folder, todo="train a model") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(
            f"the alias cannot be read: {error}", where=folder / ALIAS, todo=_RESTORE
        ) from error
    if not _VERSION.fullmatch(version):
        raise ArtefactError(f"{version!r} is no version", where=folder / ALIAS, todo="promote a model again")
    return version


def load_model(artefact: Path, repo: Path, *, threads: int = 1) -> Model:
    """Load one version's directory. Raises `ArtefactError` for anything that is not exactly what training wrote."""
    manifest, files = _verified(artefact)
    try:
        plan = Plan.load(files["plan.json"])
        reader = Reader(plan, repo)
    except DefinitionError as error:
        raise ArtefactError(
            f"the reading plan does not fit the installed feature repo: {error}",
            where=artefact,
            todo="train a model with these definitions",
        ) from error
    session = _session(files["model.onnx"], threads)
    try:
        features = tuple(map(str, manifest["features"]))
        onnx = manifest.get("onnx", {})
        rows, predictions = _golden(manifest)
        made = Model(
            name=str(manifest["name"]),
            version=str(manifest["version"]),
            created=str(manifest["created"]),
            service=str(manifest["service"]),
            schema_hash=str(manifest["schema_hash"]),
            features=features,
            review=float(manifest["threshold"]["review"]),
            decline=float(manifest["threshold"]["decline"]),
            metrics=dict(manifest["metrics"]),
            data=dict(manifest["data"]),
            reader=reader,
            typical=_typical(manifest, features, rows),
            _session=session,
            _input=str(onnx.get("input", "features")),
            _output=str(onnx.get("output", "probabilities")),
            _column=int(onnx.get("fraud_column", 1)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(
            f"the manifest lacks something: {error!r}", where=artefact / MANIFEST, todo=_RESTORE
        ) from error
    _check(made, plan, artefact)
    _check_golden(made, rows, predictions, artefact)
    return made


def _verified(artefact: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The manifest, and the files it lists, each of which is inside the directory and has its hash."""
    try:
        manifest: dict[str, Any] = json.loads((artefact / MANIFEST).read_text(encoding="utf-8"))
        stated = {str(name): str(digest) for name, digest in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"no readable manifest: {error!r}", where=artefact, todo=_RESTORE) from error
    root = artefact.resolve()
    files, wrong = {}, []
    for name, digest in sorted(stated.items()):
        path = root / name
        if PurePosixPath(name).is_absolute() or not path.resolve().is_relative_to(root):
            raise ArtefactError(
                f"the manifest lists {name!r}, which is outside", where=artefact, todo="do not use it"
            )
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(f"{name} was changed")
        files[name] = path
    wrong += [f"{name} is not in the manifest" for name in NEEDED if name not in stated]
    if wrong:
        raise ArtefactError("; ".join(wrong), where=artefact, todo=_RESTORE)
    return manifest, files


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises many kinds, all of its own
        raise ArtefactError(f"the runtime refuses the model: {error}", where=path, todo=_RESTORE) from error


def _check(model: Model, plan: Plan, artefact: Path) -> None:
    (asked,) = model._session.get_inputs()[:1]
    wrong = []
    if artefact.name != model.version:
        wrong.append(f"it is version {model.version!r}")
    if plan.service != model.service:
        wrong.append(f"the plan reads service {plan.service!r}, the model wants {model.service!r}")
    if plan.schema_hash != model.schema_hash:
        wrong.append("the plan's definitions are not those the model was trained on (schema_hash)")
    if plan.feature_names != model.features:
        wrong.append("the plan's features are not the model's, in its order")
    if asked.name != model._input or asked.shape[-1] != len(model.features):
        wrong.append(f"the model's input is {asked.name} {asked.shape}, not {len(model.features)} features")
    if model._output not in {o.name for o in model._session.get_outputs()}:
        wrong.append(f"the model has no output {model._output!r}")
    if not 0 <= model.review <= model.decline:
        wrong.append(f"thresholds out of order: review {model.review}, decline {model.decline}")
    if wrong:
        raise ArtefactError("; ".join(wrong), where=artefact, todo=_RESTORE)


def _golden(manifest: Mapping[str, Any]) -> tuple[Matrix, Floats]:
    rows = [[np.nan if v is None else float(v) for v in row] for row in manifest["golden"]["inputs"]]
    predictions = np.array(manifest["golden"]["predictions"], np.float64)
    if not rows or len(rows) != len(predictions) or {len(row) for row in rows} != {len(manifest["features"])}:
        raise ValueError("golden predictions do not fit the features")
    return np.array(rows, np.float32), predictions


def _typical(manifest: Mapping[str, Any], features: tuple[str, ...], rows: Matrix) -> Matrix:
    """The medians of the training days; those of the golden rows for a model trained before they were written down."""
    stated = manifest.get("typical")
    if stated is None:
        return _middle(rows)
    return np.array([np.nan if stated[name] is None else stated[name] for name in features], np.float32)


def _middle(rows: Matrix) -> Matrix:
    """Median per feature, missing where most are missing. Golden rows are spread evenly over the test set's scores."""
    known = ~np.isnan(rows)
    middle = np.full(rows.shape[1], np.nan, np.float32)
    mostly = known.sum(axis=0) * 2 >= len(rows)
    middle[mostly] = np.nanmedian(rows[:, mostly], axis=0)
    return middle


def _check_golden(model: Model, rows: Matrix, predictions: Floats, artefact: Path) -> None:
    try:
        worst = float(np.abs(model.predict(rows) - predictions).max())
    except Exception as error:  # the runtime raises many kinds, all of its own
        raise ArtefactError(f"the model cannot score: {error}", where=artefact, todo=_RESTORE) from error
    if not worst <= GOLDEN_TOLERANCE:
        raise ArtefactError(
            f"golden predictions are off by {worst:.2e}",
            where=artefact,
            todo="use the onnxruntime version of the manifest, or train again",
        )
