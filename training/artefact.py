"""One directory per trained model, never altered after it appears, and a `champion` file that names the one in use.

    models/<name>/<version>/   model.ubj  model.onnx  fallback.onnx  plan.json  report.html  plots/*.svg  manifest.json
    models/<name>/champion     text: a version, and the sha256 of its manifest

The directory is built beside its place, flushed to disk, and renamed, so that a reader sees all of it or nothing. The
manifest holds the sha256 of every other file: `verify` notices a file that was changed, lost or added. There is no pickle.
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
    """Sorts by time, and tells two models of the same second apart.

    >>> new_version(datetime(2026, 11, 22, 4, 19, 55, tzinfo=UTC), b"trees")
    '20261122T041955Z-29d80730'
    """
    return f"{created.astimezone(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(model).hexdigest()[:8]}"


def write(folder: Path, version: str, manifest: Mapping[str, Any], fill: Callable[[Path], None]) -> Path:
    """Let `fill` write the files into a directory beside `folder/version`, add the manifest, flush, rename."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / version
    if place.exists():
        raise ArtefactError(
            "this version exists already", where=place, todo="train again, or remove it first"
        )
    building = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=folder))
    try:
        building.chmod(0o755)  # mkdtemp allows its maker only, and the scorer may be somebody else
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
    """Read the manifest after checking every file against it."""
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
    """Make a complete version the champion; a reader of the alias sees the old line or the new one."""
    verify(folder / version)
    write_alias(folder, version)


def champion(folder: Path) -> Path:
    """Directory of the model in use."""
    version = read_alias(folder).version
    if not (folder / version).is_dir():
        raise ArtefactError(
            f"the champion {version!r} does not exist", where=folder, todo="train with --promote"
        )
    return folder / version


def libraries() -> dict[str, str]:
    """Versions of what a model's numbers depend on."""
    return {name: metadata.version(name) for name in LIBRARIES}


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below the folder but the manifest, by its name relative to the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
