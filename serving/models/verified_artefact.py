"""Check an artefact's directory against its manifest, and the manifest against its own sha256, before any byte is used.

Each file is read once, so what was hashed is what is used. Refused are files that were changed, are missing or are not
in the manifest, names that lead outside the directory, and anything that is not a plain file: links, pipes, devices.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from feature_repo.champion_alias import MANIFEST
from feature_repo.errors import ArtefactError

RESTORE: Final = "do not use it: train again, or restore the directory"


def verified(artefact: Path, digest: str = "") -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the manifest, and the content of every file it lists, by name.

    `digest` is the sha256 that the manifest must have; empty: not checked. Raises `ArtefactError` with everything that
    is wrong.
    """
    if artefact.is_symlink():
        raise ArtefactError("it is a link", where=artefact, todo="replace it by the directory")
    manifest, stated = _manifest(artefact, digest)
    for name in stated:
        if _leads_outside(artefact, name):
            raise ArtefactError(
                f"the manifest lists {name!r}, which is outside", where=artefact, todo="do not use it"
            )
    files: dict[str, bytes] = {}
    wrong = []
    try:
        for name, path in _found(artefact):
            if path.is_symlink() or not path.is_file():
                wrong.append(f"{name} is not a plain file")
            elif name not in stated:
                wrong.append(f"{name} is not in the manifest")
            else:
                files[name] = path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"it cannot be read: {error}", where=artefact, todo=RESTORE) from error
    for name, expected in sorted(stated.items()):
        if name not in files:
            wrong.append(f"{name} is missing")
        elif hashlib.sha256(files[name]).hexdigest() != expected:
            wrong.append(f"{name} was changed")
    if wrong:
        raise ArtefactError("; ".join(sorted(wrong)), where=artefact, todo=RESTORE)
    return manifest, files


def _manifest(artefact: Path, digest: str) -> tuple[dict[str, Any], dict[str, str]]:
    path = artefact / MANIFEST
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ArtefactError("manifest.json is not a plain file", where=artefact, todo=RESTORE)
        content = path.read_bytes()
        if digest and hashlib.sha256(content).hexdigest() != digest:
            raise ArtefactError(
                "manifest.json was changed: it is not the one that was promoted",
                where=artefact,
                todo="restore it, or promote the version again if the change was meant",
            )
        manifest: dict[str, Any] = json.loads(content)
        stated = {str(name): str(made) for name, made in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtefactError(f"no readable manifest: {error!r}", where=artefact, todo=RESTORE) from error
    return manifest, stated


def _leads_outside(artefact: Path, name: str) -> bool:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or str(pure) != name:
        return True
    return not (artefact / name).resolve().is_relative_to(artefact.resolve())


def _found(artefact: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of all files below, and of links to directories, except the manifest."""
    for folder, folders, names in os.walk(artefact):
        for name in [*names, *(f for f in folders if (Path(folder) / f).is_symlink())]:
            path = Path(folder) / name
            relative = path.relative_to(artefact).as_posix()
            if relative != MANIFEST:
                yield relative, path
