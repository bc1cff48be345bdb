"""Run files through the flows to their end, with progress; the demo calls it, and everybody who has data in files.

    python -m flows.backfill_files --payments history/payments.parquet --labels history/labels.parquet

`run` starts one process per stream, so that the caller neither blocks its signals nor keeps the flow's memory, and
counts what came of the files from what was published. Running the same files again adds nothing; after a kill it
continues where it stopped.

A stream runs after those it is joined with, because a payment, for example, is given what was known of its customer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Final

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from feature_repo.errors import FlowError, MillstreamError
from flows.log import dead_letters
from flows.log.files import LogFile
from flows.privacy.tombstones import ERASED
from flows.settings import FlowSettings
from flows.sources.files import count_rows, part_name
from flows.streams import STREAMS, EventStream

EPOCH_MS: Final = 250
_LOOK_EVERY_S: Final = 0.2

OnProgress = Callable[[str, int, int], None]
"""Called with the stream's name, events done and events in all."""

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@dataclass(frozen=True)
class Counts:
    """Counts of the files of one stream: `events_in == logged + sum(dead_lettered)`."""

    events_in: int = 0
    logged: int = 0
    dead_lettered: dict[str, int] = field(default_factory=dict)


def run(
    settings: FlowSettings, *, on_progress: OnProgress | None = None, **files: Sequence[Path]
) -> dict[str, Counts]:
    """Run files (`payments=[...]`) through the flows of their streams, one after another; return the counts per stream.

    A stream runs after those it is joined with. Raises `FlowError` with the last line the flow wrote, and for an
    unknown stream.
    """
    unknown = sorted(set(files) - set(STREAMS))
    if unknown:
        raise FlowError(
            f"there is no stream {', '.join(unknown)}",
            where="flows.backfill_files",
            todo=f"name one of: {', '.join(STREAMS)}",
        )
    return {
        name: _run_stream(stream, [path.resolve() for path in files[name]], settings, on_progress)
        for name, stream in STREAMS.items()
        if files.get(name)
    }


def _run_stream(
    stream: EventStream, paths: list[Path], settings: FlowSettings, on_progress: OnProgress | None
) -> Counts:
    total = sum(count_rows(path) for path in paths)
    partitions = frozenset(part_name(path) for path in paths)
    tally = _Tally(stream, settings, partitions)
    environment = os.environ | {"MILLSTREAM_HOME": str(settings.home), "REDIS_URL": settings.redis_url}
    environment.pop("MILLSTREAM_SOURCE_FILES", None)
    command = [sys.executable, "-m", "flows.run", stream.name, *map(str, paths), "--epoch-ms", str(EPOCH_MS)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        words = _Words(process)
        try:
            while process.poll() is None:
                if on_progress is not None:
                    on_progress(stream.name, min(tally.update(), total), total)
                time.sleep(_LOOK_EVERY_S)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise FlowError(
            f"the flow of {stream.name} ended with code {process.returncode}: {words.last()}",
            where=", ".join(map(str, paths)),
            todo="repair what it says and run the same command again: it continues where it stopped",
        )
    done = tally.update()
    if on_progress is not None:
        on_progress(stream.name, done, total)
    if done != total:
        raise FlowError(
            f"{total:,} events went in, but {done:,} came out as logged or dead letters",
            where=", ".join(map(str, paths)),
            todo="report this: the flow must account for every event",
        )
    return Counts(total, tally.logged, dict(tally.reasons))


class _Tally:
    """Counts published rows of some source partitions; each file is opened once."""

    def __init__(self, stream: EventStream, settings: FlowSettings, partitions: frozenset[str]) -> None:
        self._log = stream.log_folder(settings)
        self._dead = dead_letters.folders(stream, settings).published
        self._partitions = partitions
        self._seen: set[Path] = set()
        self.logged = 0
        self.reasons: Counter[str] = Counter()

    def update(self) -> int:
        """Look for new files; returns the events accounted for so far."""
        for folder, columns in (
            (self._log, ["source_partition"]),
            (self._dead, ["source_partition", "reason"]),
        ):
            for path in sorted(folder.glob("files-*.parquet")) if folder.is_dir() else []:
                if path in self._seen:
                    continue
                self._seen.add(path)
                self.reasons[ERASED] += sum(
                    n for p, n in LogFile(path.name, [folder]).erased().items() if p in self._partitions
                )
                rows = pq.read_table(
                    path, columns=columns, filters=[("source_partition", "in", self._partitions)]
                )
                if folder == self._log:
                    self.logged += rows.num_rows
                else:
                    self.reasons.update(rows["reason"].to_pylist())
        self.reasons += Counter()  # without those of which there are none
        return self.logged + self.reasons.total()


class _Words:
    """The last lines a process wrote to its standard error, read as they come so that it never blocks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        from collections import deque
        from threading import Thread

        self._lines: deque[str] = deque(maxlen=40)
        self._thread = Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        if process.stderr is not None:
            self._lines.extend(line.rstrip() for line in process.stderr)

    def last(self) -> str:
        """The last line that is not a log line."""
        self._thread.join(1.0)
        plain = [line for line in self._lines if line and not line.startswith("{")]
        return plain[-1] if plain else "it said nothing"


def with_bar(settings: FlowSettings, **files: Sequence[Path]) -> dict[str, Counts]:
    """Call `run` with a progress bar per stream on the terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {name: progress.add_task(name, total=None) for name in STREAMS if files.get(name)}

        def update(stream: str, done: int, total: int) -> None:
            progress.update(tasks[stream], completed=done, total=total)

        return run(settings, on_progress=update, **files)


def main(**files: list[Path] | None) -> None:
    """Run files into the log, the dead letters and the online store. One option per stream; it may be repeated."""
    try:
        counts = with_bar(FlowSettings(), **{name: paths or () for name, paths in files.items()})
    except MillstreamError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from error
    for stream, count in counts.items():
        dead = ", ".join(f"{n:,} {reason}" for reason, n in sorted(count.dead_lettered.items())) or "none"
        typer.echo(f"{stream}: {count.events_in:,} in, {count.logged:,} logged, dead letters: {dead}")


def _options() -> Signature:
    """Return the signature Typer reads: one option `--<stream>` per declared stream."""
    options = []
    for name, stream in STREAMS.items():
        kind: Any = Annotated[list[Path] | None, typer.Option(help=f"{stream.grain}; Parquet or JSON lines")]
        options.append(Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind))
    return Signature(options)


main.__signature__ = _options()  # type: ignore[attr-defined]
main.__annotations__ = {name: p.annotation for name, p in _options().parameters.items()}
app.command()(main)


if __name__ == "__main__":
    app()
