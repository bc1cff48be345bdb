"""`python -m flows.backfill`: bring new versions of windowed views up to date from the log, while the flow keeps running.

After `feast apply` of a new view, window or column, its states are folded here from the published log, written to the online store and
left as checkpoints, which are also the progress: interrupt it at any time and start it again. Then it leaves a note for the flow: a
running flow starts itself again within seconds (`flows.window_state.view_watch`), begins with these checkpoints, and folds the events that
came since; a flow that does not run does so when it is started. The states are those of a flow that had the view from the first event,
byte for byte.

One pass over the log per entity, all shards at once while their states fit (`--memory-mb`); shards that do not fit come in another pass.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final

import redis
import structlog
import typer
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from feature_repo.errors import DefinitionError, MillstreamError
from feature_repo.files import file_lock, is_locked
from feature_repo.stores.applied_views import AppliedViews, read_views
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.stores.redis_layout.view_versions import KeptVersions, publish, versions_key
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.blocks import EntityKeys
from flows.log.files import LogFile, log_files
from flows.online.retry import send_patiently
from flows.online.sink import connect, no_answer
from flows.process import logs
from flows.settings import FlowSettings
from flows.streams import STREAMS, EventStream
from flows.window_state.checkpoints import BACKFILL, CheckpointFolder, run_of
from flows.window_state.dirty_slots import DirtySlots
from flows.window_state.folded_views import read_handover, write_handover
from flows.window_state.replay import LogReplay
from flows.window_state.slices import Slice, part_key

log = structlog.get_logger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, help=__doc__)

CHECKPOINT_SECONDS: Final = 20.0
TAKE_OVER_SECONDS: Final = 120.0
_FIRST: Final = -1


@dataclass(eq=False)
class Shard:
    """The states of one shard's keys for the versions of one entity, and how far into the log they are."""

    number: int
    folder: CheckpointFolder
    states: list[ViewState]
    index: KeyIndex = field(default_factory=KeyIndex)
    offsets: list[dict[str, int]] = field(default_factory=list)
    dirty: DirtySlots = field(default_factory=DirtySlots)
    changed: bool = False

    @classmethod
    def restored(cls, number: int, folder: CheckpointFolder, specs: tuple[ViewSpec, ...]) -> Shard:
        """From the newest checkpoints of earlier backfills, each version from its own."""
        made = cls(number, folder, [ViewState(spec) for spec in specs], offsets=[{} for _ in specs])
        missing = {version_id(spec): i for i, spec in enumerate(specs)}
        for name in [n for n in folder.names()[::-1] if run_of(n) == BACKFILL]:
            found = folder.read(name, missing) if missing else None
            if found is None or not found.views:
                continue
            slots = made.index.slots(found.keys)
            for version, saved in found.views.items():
                i = missing.pop(version)
                made.states[i].load(slots, saved.blob, saved.at)
                made.offsets[i] = dict(saved.offsets)
            made.dirty.add(slots[found.dirty])
        return made

    def fold(self, piece: Slice) -> None:
        """The rows of a slice that are not in yet."""
        slots = self.index.slots(piece.keys)
        for state, offsets, columns in zip(self.states, self.offsets, piece.columns, strict=True):
            new = piece.offsets > offsets.get(piece.partition, _FIRST)
            if new.any():
                state.fold(slots[new], columns.take(new))
                self.dirty.add(slots[new])

    def advance(self, ranges: dict[str, list[int]]) -> None:
        """A file has been folded: these are its offsets."""
        for offsets in self.offsets:
            for p, (_, last) in ranges.items():
                self.changed |= last > offsets.get(p, _FIRST)
                offsets[p] = max(offsets.get(p, _FIRST), last)

    def lacks(self, ranges: dict[str, list[int]]) -> bool:
        """Whether a file has rows for it."""
        return any(
            last > offsets.get(p, _FIRST) for offsets in self.offsets for p, (_, last) in ranges.items()
        )

    def save(self) -> None:
        """A checkpoint, if there is anything new."""
        if self.changed:
            self.folder.write(self.index, self.states, self.offsets, self.dirty.all())
            self.changed = False

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states) + 200 * len(self.index)


class Backfill:
    """The backfill of some versions of one entity's views of a stream."""

    def __init__(
        self,
        stream: EventStream,
        settings: FlowSettings,
        project: str,
        entity: EntityKeys,
        specs: tuple[ViewSpec, ...],
        *,
        memory_bytes: int = 2_000_000_000,
    ) -> None:
        self._stream, self._settings = stream, settings
        self._entity, self._specs = entity, specs
        self._memory = memory_bytes
        self._replay = LogReplay(stream, settings, {entity: specs})
        self._projection = EntityProjection(connect(settings), project, specs, behind=True)
        self.rows = 0
        self.keys = 0

    def run(self, progress: Progress) -> None:
        """Fold and write everything that is published, then what was published meanwhile."""
        todo = list(range(self._settings.key_shards))
        names = ", ".join(spec.name for spec in self._specs)
        task = progress.add_task(names, total=None)
        while todo:
            shards = [self._restored(n) for n in todo]
            files = self._files(shards)
            progress.update(task, total=sum(rows for _, rows in files) or 1, completed=0)
            left = self._pass(shards, files, progress, task)
            todo = [shard.number for shard in left]
        progress.update(task, description=f"{names}: written")

    def _restored(self, number: int) -> Shard:
        folder = CheckpointFolder(
            self._settings.checkpoints / self._stream.name,
            part_key(self._entity, number),
            BACKFILL,
            self._settings.key_shards,
        )
        return Shard.restored(number, folder, self._specs)

    def _files(self, shards: list[Shard]) -> list[tuple[LogFile, int]]:
        """Published files some shard has not seen, by name, and how many rows they hold."""
        files = log_files(self._stream, self._settings, staged=False)
        wanted = [file for file in files if any(shard.lacks(file.offsets()) for shard in shards)]
        return [(file, file.rows()) for file in wanted]

    def _pass(
        self, shards: list[Shard], files: list[tuple[LogFile, int]], progress: Progress, task: TaskID
    ) -> list[Shard]:
        """Fold files into shards and write them; returns the shards that did not fit into the memory."""
        left: list[Shard] = []
        due = time.monotonic() + CHECKPOINT_SECONDS
        for _ in range(2):  # a second time for what was published during the first
            for file, rows in files:
                ranges = file.offsets()
                for piece in self._replay.pieces(file, self._entity):
                    shard = next((s for s in shards if s.number == piece.shard), None)
                    if shard is not None:
                        shard.fold(piece)
                for shard in shards:
                    shard.advance(ranges)
                self.rows += rows
                progress.advance(task, rows)
                if time.monotonic() > due:
                    for shard in shards:
                        shard.save()
                    due = time.monotonic() + CHECKPOINT_SECONDS
                while len(shards) > 1 and sum(s.nbytes for s in shards) > self._memory:
                    left.append(shards.pop())
                    left[-1].save()
                    left[-1] = Shard(left[-1].number, left[-1].folder, [])
            for shard in shards:
                self._write(shard)
            files = self._files(shards)
        return left

    def _write(self, shard: Shard) -> None:
        """What is not on line yet, then a checkpoint that says so."""
        slots = shard.dirty.all()
        send_patiently(lambda some: self._projection.write(shard.index, shard.states, some), slots)
        self.keys += len(slots)
        shard.changed |= bool(len(slots))
        shard.dirty.take()
        shard.save()


def wanted_versions(
    views: AppliedViews, stream: str, kept: KeptVersions, named: Collection[str]
) -> dict[EntityKeys, tuple[ViewSpec, ...]]:
    """The versions of a stream that are not filled, by entity; only of the views named, if any are."""
    found: dict[EntityKeys, list[ViewSpec]] = {}
    for spec in views.kept(stream):
        if (spec.name in named if named else True) and not kept.is_filled(spec):
            found.setdefault(spec.join_keys, []).append(spec)
    return {entity: tuple(specs) for entity, specs in found.items()}


def backfill(
    settings: FlowSettings,
    named: Collection[str] = (),
    *,
    memory_bytes: int = 2_000_000_000,
    console: Console | None = None,
) -> list[str]:
    """Backfill what is not filled, hand it over, wait for a running flow to take it; returns the versions. Raises `MillstreamError`."""
    console = console or Console(stderr=True)
    views = read_views(settings.home / "views.json")
    known = {spec.name for spec in views.every_kept()}
    unknown = sorted(set(named) - known)
    if unknown:
        raise DefinitionError(
            f"no windowed view is called {', '.join(unknown)}",
            where=settings.home / "views.json",
            todo=f"name one of: {', '.join(sorted(known))}; run `feast apply` first if it is new",
        )
    client = connect(settings)
    publish(client, views.project, views.every_kept())
    kept = KeptVersions.of(client.hkeys(versions_key(views.project)))
    done: list[str] = []
    with _progress(console) as progress:
        for name, stream in STREAMS.items():
            todo = wanted_versions(views, name, kept, named)
            if not todo:
                continue
            with _alone(settings, name):
                for entity, specs in todo.items():
                    job = Backfill(stream, settings, views.project, entity, specs, memory_bytes=memory_bytes)
                    began = time.perf_counter()
                    job.run(progress)
                    seconds = time.perf_counter() - began
                    console.print(
                        f"{'+'.join(entity)}: {job.rows:,} events, {job.keys:,} keys in {seconds:.1f} s "
                        f"({job.rows / seconds:,.0f} events/s, {job.keys / seconds:,.0f} keys/s)"
                    )
                versions = [version_id(spec) for specs in todo.values() for spec in specs]
                still = {version_id(spec) for spec in views.kept(name)}
                runs = flow_runs(
                    settings, name
                )  # asked before the note: the flow lets go of its lock when it starts again
                write_handover(settings, name, (read_handover(settings, name) & still) | set(versions))
                done += versions
                if runs:
                    _wait(client, views.project, [s for specs in todo.values() for s in specs], console)
                else:
                    console.print(
                        f"no flow of {name} runs in this home: it takes the views over within seconds of its next start"
                    )
    if not done:
        console.print("every view that is kept is filled: nothing to do")
    return done


def flow_runs(settings: FlowSettings, stream: str) -> bool:
    """Whether a flow of the stream holds the lock of this home."""
    return is_locked(settings.recovery / f"{stream}.lock")


def _wait(client: redis.Redis, project: str, specs: list[ViewSpec], console: Console) -> None:
    """Until the running flow has taken the versions over."""
    give_up = time.monotonic() + TAKE_OVER_SECONDS
    while time.monotonic() < give_up:
        kept = KeptVersions.of(client.hkeys(versions_key(project)))  # type: ignore[arg-type]
        if all(kept.is_filled(spec) for spec in specs):
            console.print("the running flow has taken them over")
            return
        time.sleep(0.2)
    console.print("the running flow has not taken them over yet; it will, at its next start at the latest")


@contextlib.contextmanager
def _alone(settings: FlowSettings, stream: str) -> Iterator[None]:
    """One backfill of a stream at a time."""
    path = settings.recovery / f"{stream}-backfill.lock"
    busy = DefinitionError("another backfill of this stream is running", where=path, todo="wait for it")
    with file_lock(path, busy=busy):
        yield


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


@app.command()
def main(
    view: Annotated[
        list[str] | None, typer.Option(help="Only this view; may be given more than once")
    ] = None,
    memory_mb: Annotated[int, typer.Option(min=16, help="States kept in memory at a time, about")] = 2_000,
) -> None:
    """Fill new views from the log while the flow keeps running."""
    settings = FlowSettings()
    logs.configure(settings.log_format)
    os.nice(5)  # the flow goes first
    try:
        backfill(settings, view or (), memory_bytes=memory_mb * 1_000_000)
    except (MillstreamError, RedisError) as error:
        said = no_answer(error, settings) if isinstance(error, RedisError) else error
        typer.secho(str(said), fg="red", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
