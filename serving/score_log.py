"""The score log: one JSON object per answer, with the vector that was scored. A new file per process start.

The hot path only appends to a list in memory. A task takes the list every half second and writes it in a thread; the
list is bounded, and what does not fit, or cannot be written, is counted and dropped: the log never holds up a score.
A killed process loses what was not flushed, at most half a second, and may leave a last line without its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import orjson
import structlog

from serving import metrics

log = structlog.get_logger(__name__)

_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z
_SLICE: Final = 64
_FULL, _UNWRITABLE = metrics.LOG_DROPPED.labels("full"), metrics.LOG_DROPPED.labels("unwritable")


class ScoreLog:
    """Appends to `<folder>/<start>-<pid>.jsonl`; `started` names the file and is the only use of a clock."""

    def __init__(self, folder: Path, started: datetime, *, flush_seconds: float, buffer: int) -> None:
        self.path = folder / f"{started.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}.jsonl"
        self._flush_seconds = flush_seconds
        self._room = buffer
        self._waiting: list[dict[str, Any]] = []
        self._writing = 0
        self._writer: asyncio.Task[None] | None = None
        self._warned = False

    def append(self, record: dict[str, Any]) -> None:
        """Never waits and never fails."""
        if len(self._waiting) + self._writing >= self._room:
            _FULL.inc()
            return
        self._waiting.append(record)

    async def start(self) -> None:
        """Begin to write."""
        self._writer = asyncio.create_task(self._write_for_ever(), name="score-log")

    async def stop(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
            self._writer = None
        await self.flush()

    async def flush(self) -> None:
        """Write what was appended so far."""
        taken, self._waiting = self._waiting, []
        if not taken:
            return
        self._writing = len(taken)
        try:
            # A thread that was begun is waited for, so that a shutdown cannot cut its last line in two.
            await asyncio.shield(writing := asyncio.ensure_future(asyncio.to_thread(self._write, taken)))
        except asyncio.CancelledError:
            await writing
            raise
        finally:
            self._writing = 0

    async def _write_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._flush_seconds)
            await self.flush()

    def _write(self, records: list[dict[str, Any]]) -> None:
        written = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path) as file:
                # In slices: serialising holds Python's lock, and a scorer waits for it.
                for start in range(0, len(records), _SLICE):
                    part = records[start : start + _SLICE]
                    _write_all(file, b"".join([orjson.dumps(r, option=_OPTIONS) for r in part]))
                    written += len(part)
        except (OSError, orjson.JSONEncodeError) as error:
            _UNWRITABLE.inc(len(records) - written)
            if not self._warned:
                self._warned = True
                log.error("score_log.unwritable", file=str(self.path), why=str(error))  # noqa: TRY400  one line is enough
        else:
            self._warned = False
        metrics.LOG_WRITTEN.inc(written)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The file to append to, ours alone meanwhile: an erasure puts another in its place, and must not miss lines."""
    while True:
        with path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                yield file
                return


def _write_all(file: IO[bytes], content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
