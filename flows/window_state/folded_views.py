"""The windowed views a flow folds: those that `views.json` lists when the process starts, and when they become others.

A flow folds the views it read at its start, and no others. Two things call for another set: a version is retired (it
leaves `views.json`), or a backfill has filled a new version from the log and noted it in `handed_over.json`. The flow
is then started again (`flows.window_state.view_watch`), and begins with the checkpoints the backfill left. A new
version that no backfill has filled is folded from the log at the next start that an operator makes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import structlog

from feature_repo.errors import DefinitionError
from feature_repo.files import write_atomically
from feature_repo.stores.applied_views import AppliedViews, read_views
from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.windows.spec import ViewSpec
from flows.blocks import EntityKeys
from flows.settings import FlowSettings

log = structlog.get_logger(__name__)

LEFT_OUT: Final = "MILLSTREAM_VIEWS_LEFT_OUT"
"""Environment variable of a flow that has started itself again: the versions it leaves out.

No backfill has filled them yet.
"""


@dataclass(frozen=True)
class FoldedViews:
    """The windowed views of one stream that this process folds.

    `applied` is all of `views.json`; `left_out` are the versions of it that are not folded.
    """

    stream: str
    applied: AppliedViews
    left_out: frozenset[str] = frozenset()

    @classmethod
    def read(cls, stream: str, settings: FlowSettings) -> Self:
        """What a process that starts now folds; nothing, with a warning, if no views have been applied."""
        left_out = frozenset(filter(None, os.environ.get(LEFT_OUT, "").split(",")))
        try:
            return cls(stream, read_views(settings.home / "views.json"), left_out)
        except DefinitionError:
            log.warning(
                "views.none",
                then="no features are computed, only the log is written",
                todo="run `feast apply` in feature_repo, then start again",
            )
            return cls(stream, AppliedViews("", {}))

    @property
    def entities(self) -> dict[EntityKeys, tuple[ViewSpec, ...]]:
        """The views to fold, by entity."""
        found = {
            entity: tuple(spec for spec in specs if version_id(spec) not in self.left_out)
            for entity, specs in self.applied.entities(self.stream).items()
        }
        return {entity: specs for entity, specs in found.items() if specs}

    @property
    def versions(self) -> frozenset[str]:
        """The versions to fold."""
        return frozenset(map(version_id, self.applied.kept(self.stream))) - self.left_out


def handover_file(settings: FlowSettings, stream: str) -> Path:
    """Where a backfill notes the versions it has filled."""
    return settings.checkpoints / stream / "handed_over.json"


def read_handover(settings: FlowSettings, stream: str) -> frozenset[str]:
    """The versions that backfills of a stream have filled."""
    path = handover_file(settings, stream)
    return frozenset(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else frozenset()


def write_handover(settings: FlowSettings, stream: str, versions: Iterable[str]) -> None:
    """Replace the note atomically."""
    path = handover_file(settings, stream)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, json.dumps(sorted(versions)), durable=False)
