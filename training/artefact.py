"""Artefacts: one immutable directory per trained model, and a file `champion` that names the one in use.

    models/<name>/<version>/   model.ubj  model.onnx  fallback.onnx  plan.json  report.html  plots/*.svg  manifest.json
    models/<name>/champion     text: a version, and the sha256 of its manifest

The directory is written under another name, flushed to disk and renamed, so that readers see all of it or nothing.
The manifest holds the sha256 of every other file: `verify` detects files that were changed, lost or added. There are
no pickles.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from feature_repo.champion_alias import MANIFEST, read_alias, write_alias
from feature_repo.errors import ArtefactError
from feature_repo.files import sync

LIBRARIES: Final = (
    "feast", "great-expectations", "numpy", "onnx", "onnxmltools", "onnxruntime", "pyarrow", "scikit-learn", "xgboost",
)  # fmt: skip


def new_version(created: datetime, model: bytes) -> str:
    """Return a version: time of creation and hash of the model, so that versions sort by time and are unique.

    >>> new_version(datetime(2026, 11, 22, 4, 19, 55, tzinfo=UTC), b"trees")
    '20261122T041955Z-29d80730'
    """
    return f"{created.astimezone(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(model).hexdigest()[:8]}"


def write(folder: Path, version: str, manifest: Mapping[str, Any], fill: Callable[[Path], None]) -> Path:
    """Write an artefact and return its directory `folder/version`; `fill` writes its files into the directory given.

    Raises `ArtefactError` if the version exists.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / version
    if place.exists():
        raise ArtefactError(
            "this version exists already", where=place, todo="train again, or remove it first"
        )
    building = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=folder))
    try:
        building.chmod(0o755)  # mkdtemp gives access to this user only, and the scorer may run as another
        fill(building)
        complete = {**manifest, "version": version, "files": _hashes(building)}
        text = json.dumps(complete, indent=2, allow_nan=False, default=str) + "\n"
        (building / MANIFEST).write_text(text, encoding="utf-8")
        for path in (*building.rglob("*"), building):
            sync(path)
        building.rename(place)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync(folder)
    return place


def verify(artefact: Path) -> dict[str, Any]:
    """Check every file against the manifest and return the manifest. Raises `ArtefactError`."""
    try:
        manifest: dict[str, Any] = json.loads((artefact / MANIFEST).read_text(encoding="utf-8"))
        stated: dict[str, str] = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"no readable manifest: {error}", where=artefact, todo="train again, or name a complete artefact"
        ) from error
    found = _hashes(artefact)
    wrong = [
        *(f"{name} is missing" for name in sorted(stated.keys() - found.keys())),
        *(f"{name} is not in the manifest" for name in sorted(found.keys() - stated.keys())),
        *(
            f"{name} was changed"
            for name in sorted(stated.keys() & found.keys())
            if stated[name] != found[name]
        ),
    ]
    if wrong:
        raise ArtefactError(
            "; ".join(wrong), where=artefact, todo="do not load it: train again, or restore it"
        )
    return manifest


def promote(folder: Path, version: str) -> None:
    """Verify a version and make it the champion, in one atomic step. Raises `ArtefactError`."""
    verify(folder / version)
    write_alias(folder, version)


def champion(folder: Path) -> Path:
    """Return the directory of the champion. Raises `ArtefactError` if there is none."""
    version = read_alias(folder).version
    if not (folder / version).is_dir():
        raise ArtefactError(
            f"the champion {version!r} does not exist", where=folder, todo="train with --promote"
        )
    return folder / version


def libraries() -> dict[str, str]:
    """Return library -> version for the libraries that affect a model's results."""
    return {name: metadata.version(name) for name in LIBRARIES}


def _hashes(folder: Path) -> dict[str, str]:
    """Return relative path -> sha256 of every file below the folder except the manifest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
