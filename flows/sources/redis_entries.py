"""Read entries of a Redis stream from the socket: ids, and payloads as places in one buffer.

A client makes a list of an id and a list of fields and values for each entry, at 3 us an entry; this reader costs 0.2
us (docs/adr/0006). The reply of an XREAD of one stream (RESP 2, redis.io/docs/reference/protocol-spec):

    *1 *2 $<n> <stream> *<entries>   and for each   *2 $<n> <ms>-<seq> *2 $1 v $<n> <payload>

A reply with an entry that has other fields than a single `v` is left to the client; `Entries.of` takes the client's
lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_repo.kernel_cache import kernel
from flows.blocks import Int64s, Payloads

_FIRST_BYTES: Final = 1 << 20
_KEPT_BYTES: Final = 64 << 20
"""A buffer that grew beyond this for large entries is released."""
_INCOMPLETE: Final = -1
_UNEXPECTED: Final = -2

Bytes = npt.NDArray[np.uint8]


class Entries:
    """Entries in stream order: `milliseconds` and `sequence` of their ids (int64[n] each), and their payloads."""

    __slots__ = ("milliseconds", "payloads", "sequence")

    def __init__(self, milliseconds: Int64s, sequence: Int64s, payloads: Payloads) -> None:
        self.milliseconds, self.sequence, self.payloads = milliseconds, sequence, payloads

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def last_id(self) -> str:
        return f"{self.milliseconds[-1]}-{self.sequence[-1]}"

    @classmethod
    def of(cls, entries: list[Any]) -> Entries:
        """Make entries from a client's lists `[id, [field, value, ...]]`."""
        ids = b" ".join([entry[0] for entry in entries]).replace(b"-", b" ")
        parts = np.fromstring(ids, dtype=np.int64, sep=" ").reshape(-1, 2)
        payloads = Payloads.of([payload_of(entry[1]) for entry in entries])
        return cls(parts[:, 0], parts[:, 1], payloads)


_NONE: Final = np.empty(0, np.int64)
NO_ENTRIES: Final = Entries(_NONE, _NONE, Payloads(np.empty(0, np.uint8), _NONE, _NONE))


class UnexpectedReplyError(Exception):
    """The reply is an error, or has entries with other fields. The connection is in the middle of it."""


class EntryReader:
    """Reads replies to `XREAD COUNT <most> STREAMS <one stream> <id>`."""

    def __init__(self, most: int) -> None:
        self._data: Bytes = np.empty(_FIRST_BYTES, np.uint8)
        self._filled = 0
        self._table = np.empty((4, most), np.int64)

    def read(self, receive: Callable[[memoryview], int]) -> Entries:
        """Read the next reply.

        `receive` writes into a buffer and returns how many bytes. Raises `UnexpectedReplyError`, and what `receive`
        raises.
        """
        place = np.zeros(3, np.int64)  # bytes parsed, entries found, entries announced
        state = _scan(self._data, self._filled, self._table, place)
        while state == _INCOMPLETE:
            if self._filled == len(self._data):
                self._data = np.concatenate([self._data, np.empty_like(self._data)])
            self._filled += receive(self._data.data[self._filled :])
            state = _scan(self._data, self._filled, self._table, place)
        if state == _UNEXPECTED:
            raise UnexpectedReplyError
        parsed, n = int(place[0]), int(place[1])
        found = NO_ENTRIES
        if n:
            table = self._table[:, :n].copy()
            found = Entries(table[0], table[1], Payloads(self._data[:parsed].copy(), table[2], table[3]))
        rest = self._data[parsed : self._filled]
        if len(self._data) > _KEPT_BYTES and len(rest) <= _FIRST_BYTES:
            self._data = np.empty(_FIRST_BYTES, np.uint8)
        self._data[: len(rest)] = rest
        self._filled = len(rest)
        return found

    def reset(self) -> None:
        """Drop the bytes of further replies, after the connection was replaced."""
        self._filled = 0


def payload_of(fields: list[bytes] | None) -> bytes:
    """Return the value of field `v`; without it, all fields and values joined, for the dead letter."""
    if fields and len(fields) == 2 and fields[0] == b"v":
        return fields[1]
    for name, value in zip((fields or [])[::2], (fields or [])[1::2], strict=False):
        if name == b"v":
            return value
    return b" ".join(fields or [])


@kernel
def _header(data: Bytes, at: int, end: int, mark: int) -> tuple[Any, Any]:
    """Return (place after it, number) of a line such as `$12`; place < 0: bytes are missing, or it is another line."""
    if at >= end:
        return _INCOMPLETE, 0
    if data[at] != mark:
        return _UNEXPECTED, 0
    at += 1
    value = np.int64(0)
    begin = at
    while at < end and 48 <= data[at] <= 57:
        value = value * 10 + (data[at] - 48)
        at += 1
    if at + 2 > end:
        return _INCOMPLETE, 0
    if at == begin or at - begin > 9 or data[at] != 13 or data[at + 1] != 10:
        return _UNEXPECTED, 0
    return at + 2, value


@kernel
def _scan(data: Bytes, end: int, table: Any, place: Int64s) -> Any:
    """Continue parsing at `place`. Returns 0 when the reply is complete, else `_INCOMPLETE` or `_UNEXPECTED`."""
    at: Any = place[0]
    if at == 0:
        if end >= 5 and data[0] == 42 and data[1] == 45 and data[2] == 49 and data[3] == 13 and data[4] == 10:
            place[0] = 5
            return 0  # *-1: nothing new
        if end < 5:
            return _INCOMPLETE
        for step in range(3):  # *1, *2, $<length of the name>
            at, value = _header(data, at, end, 36 if step == 2 else 42)
            if at < 0:
                return at
            if step < 2 and value != step + 1:
                return _UNEXPECTED
        at, value = _header(data, at + value + 2, end, 42)
        if at < 0:
            return at
        if value > table.shape[1]:
            return _UNEXPECTED
        place[0], place[2] = at, value
    while place[1] < place[2]:
        at, n = _header(data, place[0], end, 42)
        if at < 0:
            return at
        if n != 2:
            return _UNEXPECTED
        at, n = _header(data, at, end, 36)
        if at < 0:
            return at
        if at + n + 2 > end:
            return _INCOMPLETE
        i = place[1]
        part, value = 0, np.int64(0)
        for k in range(at, at + n):
            if data[k] == 45:
                table[0, i] = value
                value = np.int64(0)
                part += 1
            else:
                value = value * 10 + (data[k] - 48)
        if part != 1:
            return _UNEXPECTED
        table[1, i] = value
        at, n = _header(data, at + n + 2, end, 42)
        if at < 0:
            return at
        if n != 2:
            return _UNEXPECTED
        at, n = _header(data, at, end, 36)
        if at < 0:
            return at
        if at + 3 > end:
            return _INCOMPLETE
        if n != 1 or data[at] != 118:
            return _UNEXPECTED
        at, n = _header(data, at + 3, end, 36)
        if at < 0:
            return at
        if at + n + 2 > end:
            return _INCOMPLETE
        table[2, i], table[3, i] = at, at + n
        place[0] = at + n + 2
        place[1] += 1
    return 0
