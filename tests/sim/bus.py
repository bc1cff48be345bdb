"""Redis streams in memory: entries, and the server's counters.

The source reads them as it reads `flows.sources.redis_reads.BusReads`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from flows.sources.redis_entries import NO_ENTRIES, Entries

Id = tuple[int, int]


def _id(text: str) -> Id:
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence or 0)


def _text(entry: Id) -> str:
    return f"{entry[0]}-{entry[1]}"


class Streams:
    """The server: `clock` gives its time in microseconds."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._entries: dict[str, list[tuple[Id, bytes]]] = {}
        self._added: dict[str, int] = {}
        self._last: dict[str, Id] = {}
        self._notes: dict[tuple[str, str], bytes] = {}

    def add(self, stream: str, payload: bytes) -> Id:
        """XADD with the server's own id."""
        before = self._last.get(stream, (0, 0))
        milliseconds = self._clock() // 1000
        entry = (milliseconds, 0) if milliseconds > before[0] else (before[0], before[1] + 1)
        self._entries.setdefault(stream, []).append((entry, payload))
        self._added[stream] = self._added.get(stream, 0) + 1
        self._last[stream] = entry
        return entry

    def last_id(self, stream: str) -> str:
        """The id of the newest entry."""
        return _text(self._last.get(stream, (0, 0)))

    def length(self, stream: str) -> int:
        """Entries that are still there."""
        return len(self._entries.get(stream, ()))

    def read(self, stream: str, after: str, count: int) -> list[Any]:
        """XREAD: raw entries."""
        found = [e for e in self._entries.get(stream, ()) if e[0] > _id(after)][:count]
        return [[_text(entry).encode(), [b"v", payload]] for entry, payload in found]

    def do(self, command: tuple[str | int, ...]) -> Any:
        """One command of the source."""
        match command:
            case ("EXISTS", str(stream)):
                return int(stream in self._added)
            case ("XINFO", "STREAM", str(stream)):
                added = self._added.get(stream, 0)
                return [b"length", self.length(stream), b"entries-added", added]
            case ("XREAD", "COUNT", int(count), "STREAMS", str(stream), str(after)):
                found = self.read(stream, after, count)
                return [[stream.encode(), found]] if found else None
            case ("HGET", str(key), str(field)):
                return self._notes.get((key, field))
            case ("HSET", str(key), str(field), int(value)):
                self._notes[key, field] = b"%d" % value
                return 1
            case ("TIME",):
                return [self._clock() // 1_000_000, self._clock() % 1_000_000]
            case ("XTRIM", str(stream), "MINID", "=", str(first)):
                kept = [e for e in self._entries.get(stream, ()) if e[0] >= _id(first)]
                self._entries[stream] = kept
                return 0
        raise AssertionError(f"the bus of the simulation does not know {command}")


class Reads:
    """Stands for `BusReads`."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def join(self, partition: Any) -> None:
        del partition

    def leave(self, partition: Any) -> None:
        del partition

    def next_look(self, now: datetime) -> datetime:
        return now

    def ready(self, partition: Any) -> bool:
        del partition
        return False

    def read(self, partition: Any, last_id: str, count: int) -> Entries:
        found = self._streams.read(partition.stream, last_id, count)
        return Entries.of(found) if found else NO_ENTRIES

    def call(self, *commands: tuple[str | int, ...]) -> list[Any]:
        if commands[0] != ("MULTI",):
            return [self._streams.do(command) for command in commands]
        made = [self._streams.do(command) for command in commands[1:-1]]
        return [*([b"QUEUED"] * (len(commands) - 1)), made]
