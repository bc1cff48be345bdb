"""Old names that still work for one release: settings here, metrics in `feature_repo.metrics`.

    allowed_lateness_seconds: float = Field(
        default=600.0, validation_alias=renamed("MILLSTREAM_ALLOWED_LATENESS_SECONDS", "MILLSTREAM_LATENESS_SECONDS")
    )

A process that reads an old name uses its value, and warns once with both names. The new name wins if both are
set.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Final

from pydantic import AliasChoices

RENAMED: Final[dict[str, str]] = {}
"""Environment variables by their old name, with the new one."""
_warned: Final[set[str]] = set()


def renamed(new: str, *old: str) -> AliasChoices:
    """Return the `validation_alias` of a setting whose environment variable was renamed from `old` to `new`."""
    RENAMED.update(dict.fromkeys(old, new))
    return AliasChoices(new, *old)


def warn_of_old_settings(given: Iterable[str]) -> None:
    """Warn about the old names among the environment variables that were read."""
    for name in given:
        if name.upper() in RENAMED:
            warn_renamed(name.upper(), RENAMED[name.upper()])


def warn_renamed(old: str, new: str) -> None:
    """Warn on standard error that `old` is deprecated and what to use instead; once per process and name."""
    if old not in _warned:
        _warned.add(old)
        warnings.warn(
            f"{old} is deprecated and will not be read after this release: use {new}",
            FutureWarning,
            stacklevel=2,
        )
