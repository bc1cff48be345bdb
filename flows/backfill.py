"""`python -m flows.backfill`: fill new versions of windowed views from the log, beside the running flow.

After `feast apply` of a new view, window or column, this folds the published log into the states of the new version,
writes them to the online store and leaves them as checkpoints. The checkpoints are also the progress: interrupt the
command at any time and start it again. Then it leaves a note for the flow. A running flow starts itself again within
seconds (`flows.window_state.view_watch`), begins with these checkpoints, and folds the events that came since; a flow
that does not run does so when it is started. The states are those of a flow that had the view from the first event,
byte for byte.

One pass over the log per entity, for all shards at once while their states fit (`--memory-mb`); shards that do not fit
need another pass.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
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
from flows.blocks import EntityKeys
from flows.log.files import LogFile, log_files
from flows.online.retry import call_with_retry
from flows.online.sink import connect, no_answer
from flows.process import logs
from flows.settings import FlowSettings
from flows.streams import STREAMS, EventStream
from flows.window_state.checkpoints import BACKFILL, CheckpointFolder, run_of
from flows.window_state.folded_views import read_handover, write_handover
from flows.window_state.part_fold import PartFold
from flows.window_state.replay import LogReplay
from flows.window_state.slices import part_key

log = structlog.get_logger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, help=__doc__)

CHECKPOINT_SECONDS: Final = 20.0
"""How often the states are saved."""
RESTART_SECONDS: Final = 120.0
"""How long a running flow is given to start again."""


class Shard:
    """The states of one shard's keys for some versions of one entity's views, and the folder of its checkpoints."""

    def __init__(self, number: int, folder: CheckpointFolder, specs: tuple[ViewSpec, ...]) -> None:
        self.number = number
        self.folder = folder
        self.part = PartFold(specs)
        self.changed = False
        """Whether there is anything that the newest checkpoint does not have."""

    def restore(self) -> None:
        """Load the newest checkpoints of earlier backfills, each version from its own."""
        names = [name for name in self.folder.names()[::-1] if run_of(name) == BACKFILL]
        self.part.restore(self.folder, names, lambda name, offsets: True)

    def lacks(self, ranges: dict[str, list[int]]) -> bool:
        """Whether some version does not contain a file with these offsets (first and last, by partition)."""
        return any(view.last(p) < last for view in self.part.views for p, (_, last) in ranges.items())

    def reach(self, ranges: dict[str, list[int]]) -> None:
        """A file with these offsets has been folded."""
        self.changed |= self.lacks(ranges)
        self.part.reach((p, last) for p, (_, last) in ranges.items())

    def save(self) -> None:
        """Write a checkpoint, if there is anything new."""
        if self.changed:
            self.part.save(self.folder)
            self.changed = False

    def drop(self) -> None:
        """Save the states and free their memory."""
        self.save()
        self.part = PartFold(())


class Backfill:
    """The backfill of some versions of one entity's views of a stream.

    `rows`, `keys`: how many were folded and written.
    """

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
        """Fold and write everything that is published, then everything that was published meanwhile."""
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
        shard = Shard(number, folder, self._specs)
        shard.restore()
        return shard

    def _files(self, shards: list[Shard]) -> list[tuple[LogFile, int]]:
        """Published files that some shard lacks, by name, and their number of rows."""
        files = log_files(self._stream, self._settings, staged=False)
        wanted = [file for file in files if any(shard.lacks(file.offsets()) for shard in shards)]
        return [(file, file.rows()) for file in wanted]

    def _pass(
        self, shards: list[Shard], files: list[tuple[LogFile, int]], progress: Progress, task: TaskID
    ) -> list[Shard]:
        """Fold files into shards and write them; returns the shards that did not fit into memory."""
        left: list[Shard] = []
        by_number = {shard.number: shard for shard in shards}
        due = time.monotonic() + CHECKPOINT_SECONDS
        for _ in range(2):  # the second time for files that were published during the first
            for file, rows in files:
                ranges = file.offsets()
                for piece in self._replay.pieces(file, self._entity):
                    shard = by_number.get(piece.rows.shard)
                    if shard is not None:
                        shard.part.fold_log(piece)
                for shard in shards:
                    shard.reach(ranges)
                self.rows += rows
                progress.advance(task, rows)
                if time.monotonic() > due:
                    for shard in shards:
                        shard.save()
                    due = time.monotonic() + CHECKPOINT_SECONDS
                while len(shards) > 1 and sum(s.part.nbytes for s in shards) > self._memory:
                    left.append(shards.pop())
                    left[-1].drop()
                    del by_number[left[-1].number]
            for shard in shards:
                self._write(shard)
            files = self._files(shards)
        return left

    def _write(self, shard: Shard) -> None:
        """Write the states that the online store does not have, then a checkpoint without dirty slots."""
        part = shard.part
        slots = part.dirty.all()
        call_with_retry(lambda: self._projection.write(part.index, part.states, slots))
        self.keys += len(slots)
        shard.changed |= bool(len(slots))
        part.dirty.take()
        shard.save()


def wanted_versions(
    views: AppliedViews, stream: str, kept: KeptVersions, named: Collection[str]
) -> dict[EntityKeys, tuple[ViewSpec, ...]]:
    """The versions of a stream that are not filled, by entity; only those of the views `named`, if any are."""
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
    """Fill the versions that are not filled, then wait until a running flow folds them; returns the versions.

    `named`: names of the views to fill, all if empty. `memory_bytes`: memory for the states of one entity, about.
    Raises `MillstreamError` (an unknown name, another backfill, a disk or log that cannot be used) and redis-py's
    errors.
    """
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
            with _only_backfill(settings, name):
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
                )  # before the note: a flow that starts again releases its lock
                write_handover(settings, name, (read_handover(settings, name) & still) | set(versions))
                done += versions
                if runs:
                    _wait(client, views.project, [s for specs in todo.values() for s in specs], console)
                else:
                    console.print(
                        f"no flow of {name} runs in this home; it will fold the new views when it is started"
                    )
    if not done:
        console.print("every view is filled: nothing to do")
    return done


def flow_runs(settings: FlowSettings, stream: str) -> bool:
    """Whether a flow of the stream holds the lock of this home."""
    return is_locked(settings.recovery / f"{stream}.lock")


def _wait(client: redis.Redis, project: str, specs: list[ViewSpec], console: Console) -> None:
    """Wait until the running flow has started again and folds the versions; give up after `RESTART_SECONDS`."""
    give_up = time.monotonic() + RESTART_SECONDS
    while time.monotonic() < give_up:
        kept = KeptVersions.of(client.hkeys(versions_key(project)))  # type: ignore[arg-type]
        if all(kept.is_filled(spec) for spec in specs):
            console.print("the running flow folds them now")
            return
        time.sleep(0.2)
    console.print("the running flow does not fold them yet; it will when it is started again")


@contextlib.contextmanager
def _only_backfill(settings: FlowSettings, stream: str) -> Iterator[None]:
    """Hold the lock that lets one backfill of a stream run at a time. Raises `DefinitionError` if another one runs."""
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
    view: Annotated[list[str] | None, typer.Option(help="Fill only this view; may be repeated")] = None,
    memory_mb: Annotated[
        int, typer.Option(min=16, help="Memory for the states of one entity, about")
    ] = 2_000,
) -> None:
    """Fill new views from the log, beside the running flow."""
    settings = FlowSettings()
    logs.configure(settings.log_format)
    os.nice(5)  # the flow goes first
    try:
        backfill(settings, view or (), memory_bytes=memory_mb * 1_000_000)
    except (MillstreamError, RedisError) as error:
        message = no_answer(error, settings) if isinstance(error, RedisError) else error
        typer.secho(str(message), fg="red", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
