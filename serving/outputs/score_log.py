"""Score log: one JSON object per answer, with the feature vector that was scored. A new file per process start.

A line is encoded when its answer is made (20 us) and kept in memory. Encoding half a second's lines together in the
writing thread held the GIL for 10 ms, and made the answers of that time the slowest. A task lets a thread write the
lines every half second. The buffer is bounded; lines that do not fit or cannot be written are counted and dropped, so
the log never delays a score. A killed process loses what was not flushed, at most half a second, and may leave an
incomplete last line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import orjson
import structlog

from feature_repo.files import open_locked
from serving import metrics

log = structlog.get_logger(__name__)

_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z
_FULL, _UNWRITABLE = metrics.LOG_DROPPED.labels("full"), metrics.LOG_DROPPED.labels("unwritable")


class ScoreLog:
    """Appends to `<folder>/<started>-<pid>.jsonl`; holds at most `buffer` lines that are not written yet."""

    def __init__(self, folder: Path, started: datetime, *, flush_seconds: float, buffer: int) -> None:
        self.path = folder / f"{started.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}.jsonl"
        self._flush_seconds = flush_seconds
        self._room = buffer
        self._waiting: list[bytes] = []
        self._writing = 0
        self._writer: asyncio.Task[None] | None = None
        self._warned = False

    def append(self, record: dict[str, Any]) -> None:
        """Buffer the record of an answer; never waits and never raises."""
        if len(self._waiting) + self._writing >= self._room:
            _FULL.inc()
            return
        try:
            self._waiting.append(orjson.dumps(record, option=_OPTIONS))
        except orjson.JSONEncodeError as error:
            self._unwritable(1, error)

    async def start(self) -> None:
        """Start to write every `flush_seconds`."""
        self._writer = asyncio.create_task(self._write_periodically(), name="score-log")

    async def stop(self) -> None:
        """Stop, and write what is left."""
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
            # The thread is waited for, so that a shutdown cannot cut its last line in two.
            await asyncio.shield(writing := asyncio.ensure_future(asyncio.to_thread(self._write, taken)))
        except asyncio.CancelledError:
            await writing
            raise
        finally:
            self._writing = 0

    async def _write_periodically(self) -> None:
        while True:
            await asyncio.sleep(self._flush_seconds)
            await self.flush()

    def _write(self, lines: list[bytes]) -> None:
        written = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # An erasure replaces the file; the lock keeps it from missing lines.
            with open_locked(self.path, "ab", buffering=0) as file:
                _write_all(file, b"".join(lines))
            written = len(lines)
        except OSError as error:
            self._unwritable(len(lines), error)
        else:
            self._warned = False
        metrics.LOG_WRITTEN.inc(written)

    def _unwritable(self, lines: int, why: Exception) -> None:
        _UNWRITABLE.inc(lines)
        if not self._warned:
            self._warned = True
            log.error("score_log.unwritable", file=str(self.path), why=str(why))


def _write_all(file: IO[bytes], content: bytes) -> None:
    """Write everything, or nothing if the disk is full: an incomplete line would damage the next one."""
    before = os.fstat(file.fileno()).st_size
    view = memoryview(content)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError:
        os.ftruncate(file.fileno(), before)
        raise
