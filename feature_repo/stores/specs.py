"""The windowed views of an applied repo, as plain files a flow can read in milliseconds without importing Feast.

`feast apply` writes `<home>/views.json` through the online store's `update` hook; the flow and the backfill fold what stands there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_repo.errors import DefinitionError
from feature_repo.windows.spec import ViewSpec


@dataclass(frozen=True)
class AppliedViews:
    """The windowed views of one Feast project. `streams` maps a stream's name (the folder of its log) to its views."""

    project: str
    streams: dict[str, tuple[ViewSpec, ...]]

    def entities(self, stream: str) -> dict[tuple[str, ...], tuple[ViewSpec, ...]]:
        """The views of a stream by entity (its sorted join keys): they share keys, shards and a Redis hash."""
        grouped: dict[tuple[str, ...], list[ViewSpec]] = {}
        for spec in self.streams.get(stream, ()):
            grouped.setdefault(spec.join_keys, []).append(spec)
        return {keys: tuple(specs) for keys, specs in grouped.items()}


def write_views(path: Path, views: AppliedViews) -> None:
    """Replace the file atomically."""
    made = {
        "project": views.project,
        "streams": {s: [v.to_dict() for v in specs] for s, specs in views.streams.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(made, indent=1))
    temporary.replace(path)


def read_views(path: Path) -> AppliedViews:
    """The views of the last `feast apply`. Raises `DefinitionError` if there was none."""
    try:
        made: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        msg = "no feature views have been applied"
        raise DefinitionError(msg, where=path, todo="run `feast apply` in feature_repo first") from None
    return AppliedViews(
        made["project"], {s: tuple(map(ViewSpec.from_dict, specs)) for s, specs in made["streams"].items()}
    )


def group_by_stream(views: Iterable[tuple[str, ViewSpec]]) -> dict[str, tuple[ViewSpec, ...]]:
    """(stream, spec) pairs as the mapping of `AppliedViews`, names sorted so that nothing depends on the order of files."""
    grouped: dict[str, list[ViewSpec]] = {}
    for stream, spec in sorted(views, key=lambda pair: pair[1].name):
        grouped.setdefault(stream, []).append(spec)
    return {stream: tuple(specs) for stream, specs in sorted(grouped.items())}
