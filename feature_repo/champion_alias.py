"""The file `champion` of a model: one line that names the version in use and the sha256 of its manifest.

    20261122T041955Z-29d80730 sha256:5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592

The manifest has the sha256 of every other file of the version, so the line holds all of them: thresholds, trees, golden
predictions. Only who may write this file can decide which model is used.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_repo.errors import ArtefactError
from feature_repo.files import write_atomically

CHAMPION: Final = "champion"
MANIFEST: Final = "manifest.json"
_LINE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,127})(?: sha256:([0-9a-f]{64}))?")


@dataclass(frozen=True)
class Alias:
    """A version, and the sha256 of its manifest in hex; empty in a file that was written by hand without it."""

    version: str
    digest: str = ""

    def __str__(self) -> str:
        return self.version + (f" sha256:{self.digest}" if self.digest else "")


def read_alias(folder: Path) -> Alias:
    """Read the file `champion` of a model's folder. Raises `ArtefactError` when it is missing or has another format."""
    path = folder / CHAMPION
    try:
        line = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ArtefactError("there is no champion", where=folder, todo="train a model") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(
            f"the alias cannot be read: {error}", where=path, todo="promote a model again"
        ) from error
    found = _LINE.fullmatch(line)
    if found is None:
        raise ArtefactError(f"{line[:200]!r} is not a version", where=path, todo="promote a model again")
    return Alias(found[1], found[2] or "")


def write_alias(folder: Path, version: str) -> Alias:
    """Make a version the champion, with the sha256 of its manifest; the file is replaced atomically."""
    alias = Alias(version, hashlib.sha256((folder / version / MANIFEST).read_bytes()).hexdigest())
    write_atomically(folder / CHAMPION, f"{alias}\n", mode=0o644)
    return alias
