"""The views a running flow keeps, and how it follows `feast apply`, a backfill and a retirement without a restart.

Generation 0 is what `views.json` listed when the process started. A later generation begins when a version is retired, or when a
backfill has brought a new version so far that a running flow can take it over (`flows.backfill` leaves a note of that). A source
partition takes the newest generation up at the end of an epoch and stamps it on its blocks from then on, with the offset it stood
at (`flows.blocks.RawBlock.marks`): rows beyond that offset reach a new view through the flow, rows up to it through the log. Since
a result is a function of the set of events, that is exact, whatever arrives when.

A version that no backfill has handed over is taken up at the next start, from the log. In a cluster of several processes, which would
have to agree on generations, everything is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final
from weakref import WeakValueDictionary

import structlog

from feature_repo.errors import DefinitionError
from feature_repo.files import write_atomically
from feature_repo.stores.applied_views import AppliedViews, read_views
from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.windows.spec import ViewSpec
from flows.blocks import EntityKeys
from flows.process import recovery
from flows.settings import FlowSettings
from flows.streams import EventStream
from flows.window_state.replay import LogReplay

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Generation:
    """What is folded; `since` says of each version with which generation the flow began to."""

    entities: dict[EntityKeys, tuple[ViewSpec, ...]]
    since: Mapping[str, int]


class KeptViews:
    """The windowed views of one stream, generation by generation; safe to use from several workers."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self._stream, self._settings = stream, settings
        self._lock = Lock()
        self._looked = time.monotonic()
        self._replays: WeakValueDictionary[str, LogReplay] = WeakValueDictionary()
        self._told: set[str] = set()
        self._seen = self._stat()
        try:
            self.applied = read_views(settings.home / "views.json")
        except DefinitionError:
            log.warning(
                "views.none",
                then="only the log is written",
                todo="run `feast apply` in feature_repo, then start again",
            )
            self.applied = AppliedViews("", {})
        kept = self.applied.kept(stream.name)
        first = Generation(self.applied.entities(stream.name), dict.fromkeys(map(version_id, kept), 0))
        self.generations = [first]
        """Only ever appended to."""
        options = recovery.run_options() or {}
        self._follows = not settings.files and options.get("process_id") is None
        self.busy_until = 0.0
        """Parts that take a version over work one at a time, until then at the earliest (`time.monotonic`)."""

    def entities(self, number: int) -> dict[EntityKeys, tuple[ViewSpec, ...]]:
        """What a generation folds."""
        return self.generations[number].entities

    def look(self) -> int:
        """The number of the newest generation; looks at the files at most once a second."""
        now = time.monotonic()
        if self._follows and now - self._looked > LOOK_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._looked = now
                seen = self._stat()
                if seen != self._seen:
                    self._seen = seen
                    self._turn()
            finally:
                self._lock.release()
        return len(self.generations) - 1

    def replay(self, spec: ViewSpec) -> LogReplay:
        """The log cut for one version; all parts that take it over at the same time share it."""
        with self._lock:
            found = self._replays.get(version_id(spec))
            if found is None:
                found = LogReplay(self._stream, self._settings, {spec.join_keys: (spec,)})
                self._replays[version_id(spec)] = found
            return found

    def _turn(self) -> None:
        try:
            applied = read_views(self._settings.home / "views.json")
        except DefinitionError:
            return
        before = self.generations[-1]
        handed = read_handover(self._settings, self._stream.name)
        number = len(self.generations)
        since: dict[str, int] = {}
        entities: dict[EntityKeys, list[ViewSpec]] = {}
        for spec in applied.kept(self._stream.name):
            version = version_id(spec)
            if version in before.since or version in handed:
                since[version] = before.since.get(version, number)
                entities.setdefault(spec.join_keys, []).append(spec)
            elif version not in self._told:
                self._told.add(version)
                log.warning(
                    "view.new",
                    version=version,
                    then="it is not folded yet",
                    todo="run python -m flows.backfill, or start the flow again",
                )
        self.applied = applied
        if since.keys() != before.since.keys():
            for version in sorted(since.keys() - before.since.keys()):
                log.info("view.taken_over", version=version)
            for version in sorted(before.since.keys() - since.keys()):
                log.info("view.retired", version=version)
            self.generations.append(Generation({e: tuple(s) for e, s in entities.items()}, since))

    def _stat(self) -> tuple[int, ...]:
        paths = (self._settings.home / "views.json", handover_file(self._settings, self._stream.name))
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)


def handover_file(settings: FlowSettings, stream: str) -> Path:
    """Where a backfill notes the versions a running flow may take over."""
    return settings.checkpoints / stream / "handed_over.json"


def read_handover(settings: FlowSettings, stream: str) -> frozenset[str]:
    """The versions noted there."""
    path = handover_file(settings, stream)
    return frozenset(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else frozenset()


def write_handover(settings: FlowSettings, stream: str, versions: Iterable[str]) -> None:
    """Replace the note."""
    path = handover_file(settings, stream)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, json.dumps(sorted(versions)), durable=False)
