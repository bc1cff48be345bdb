"""Commands that make whole hashes where there are none: RESTORE over many keys, written into one buffer straight from the state arrays.

Compare-and-set costs the server a script for each key. In a store that was emptied there is nothing to compare with, and RESTORE does
all that is wanted natively, in one step: it refuses a key that is there already (`BUSYKEY`), sets every field, and sets the expiry.
Whoever sends these commands sends those of `commands.StateCalls` instead when one of them is refused, for whatever reason.

A command's payload is a hash as Redis keeps it in its files, the version of that format, and a CRC-64 of all before it (polynomial of
Jones, reflected). The hash is a listpack, fields and values in turn in one piece of memory, which the server takes over as it is: a
table of its own for each hash costs it twice as much, and is made when a field is first written to. Servers before Redis 7.0 know no
such hash and refuse it.

    16                                a hash in a listpack (rdb.h)
    length                            in 1, 2 or 5 bytes
      total bytes, number of texts    4 and 2 bytes, little-endian (listpack.c)
      of each text: length, text, length of both backwards
      255
    10, 0                             version
    CRC-64
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numba as nb
import numpy as np

from feature_repo.stores.online.script_calls import Calls, sizes_and_times
from feature_repo.stores.redis_layout.resp_packing import (
    MOST_TIME,
    as_bytes,
    encode,
    key,
    line_end,
    number,
    put,
    timestamp,
)
from feature_repo.windows.arrays import Bytes, Ints
from feature_repo.windows.columns import Keys
from feature_repo.windows.state import ViewState

_LENGTHS: Final = 64
"""Bytes that the lengths and line ends of a command's arguments take at most."""
_LENGTH: Final = 10
"""Bytes the lengths before and behind a text take at most."""
_FRAME: Final = 1 + 5 + 6 + 1 + 10
"""What there is of a payload but its texts, at most."""
_POLYNOMIAL: Final = 0x95AC9329AC4BC9B5


def _tables() -> Ints:
    """What a byte does to the sum, as the last of 1 to 8 bytes (slicing-by-8; Kounavis and Berry, 2005)."""
    tables = np.zeros((8, 256), np.uint64)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        tables[0, byte] = crc
    for k in range(1, 8):
        before = tables[k - 1]
        tables[k] = tables[0, (before & np.uint64(0xFF)).astype(np.int64)] ^ (before >> np.uint64(8))
    return tables  # type: ignore[return-value]  # bits, not numbers


_TABLES: Final = _tables()


class NewHashes:
    """Packs the states of one entity's views. `fields`: per view, the field of its state and of its time; `seconds` to live."""

    def __init__(
        self, fields: Sequence[tuple[bytes, bytes]], seconds: int, prefix: bytes, suffix: bytes
    ) -> None:
        self._command = as_bytes(encode("RESTORE"))
        self._lifetime = as_bytes(encode(seconds * 1000))
        self._prefix, self._suffix = as_bytes(prefix), as_bytes(suffix)
        self._states = _texts([state for state, _ in fields])
        # Versions of a view share its time field, and a field may stand in a hash only once: the last one's, as with HSET.
        times = {time: view for view, (_, time) in enumerate(fields)}
        self._times, self._time_of = _texts(list(times)), np.array(list(times.values()), np.int64)

    def pack(self, names: Keys, states: Sequence[ViewState], slots: Ints) -> Calls:
        """A command per slot; `names` are the keys in slot order."""
        n, views = len(slots), len(states)
        sizes, times = sizes_and_times(states, slots)
        lengths = names.offsets[slots + 1] - names.offsets[slots]
        a_row = len(self._command) + len(self._lifetime) + len(self._prefix) + len(self._suffix) + _LENGTHS
        a_row += len(self._states[0]) + len(self._times[0]) + 2 * views * _LENGTH + views * MOST_TIME + _FRAME
        out = np.empty(int(sizes.sum() + lengths.sum()) + n * a_row, np.uint8)
        places = np.empty((views, n), np.int64)
        payloads = np.empty((n, 2), np.int64)
        used = _frame(
            out,
            self._command,
            self._lifetime,
            self._prefix,
            self._suffix,
            names.offsets,
            names.data,
            slots,
            *self._states,
            *self._times,
            self._time_of,
            sizes,
            times,
            places,
            payloads,
        )
        for v, state in enumerate(states):
            state.pack_into(slots, out, places[v])
        _seal(out, payloads, _TABLES)
        return Calls(out[:used], n, n)


def crc64(data: bytes) -> int:
    """The sum Redis has in its files.

    >>> hex(crc64(b"123456789"))
    '0xe9c6d914c4b8d9ca'
    """
    return int(_crc(as_bytes(data), 0, len(data), _TABLES))


def _texts(texts: Sequence[bytes]) -> tuple[Bytes, Ints]:
    """Texts as a listpack has them, and where each begins."""
    room = np.empty(_LENGTH + max(map(len, texts)), np.uint8)
    made = []
    for text in texts:
        at = put(room, _before(room, 0, len(text)), as_bytes(text))
        made.append(room[: _behind(room, at, at)].tobytes())
    return as_bytes(b"".join(made)), np.cumsum([0, *map(len, made)], dtype=np.int64)


@nb.njit(cache=True)
def _before(out: Bytes, at: int, size: int) -> int:
    """The length that stands before a text."""
    if size < 64:
        out[at] = 128 | size
        return at + 1
    if size < 4096:
        out[at], out[at + 1] = 224 | (size >> 8), size & 255
        return at + 2
    out[at] = 240
    return _little(out, at + 1, size, 4)


@nb.njit(cache=True)
def _behind(out: Bytes, at: int, size: int) -> int:
    """The length that stands behind a text and says how far back it begins: 7 bits a byte, the last is read first."""
    n = _behind_bytes(size)
    for k in range(n):
        out[at + n - 1 - k] = ((size >> (7 * k)) & 127) | (128 if k < n - 1 else 0)
    return at + n


@nb.njit(cache=True)
def _before_bytes(size: int) -> int:
    return 1 if size < 64 else (2 if size < 4096 else 5)


@nb.njit(cache=True)
def _behind_bytes(size: int) -> int:
    if size < 128:
        return 1
    if size < 16383:
        return 2
    if size < 2097151:
        return 3
    return 4 if size < 268435455 else 5


@nb.njit(cache=True)
def _text_bytes(size: int) -> int:
    """Of a text with its lengths."""
    size += _before_bytes(size)
    return size + _behind_bytes(size)


@nb.njit(cache=True)
def _little(out: Bytes, at: int, value: int, size: int) -> int:
    for k in range(size):
        out[at + k] = (value >> (8 * k)) & 255
    return at + size


@nb.njit(cache=True)
def _length(out: Bytes, at: int, value: int) -> int:
    """A length as files have it."""
    if value < 64:
        out[at] = value
        return at + 1
    if value < 16384:
        out[at], out[at + 1] = 64 | (value >> 8), value & 255
        return at + 2
    out[at] = 128
    for k in range(4):
        out[at + 4 - k] = (value >> (8 * k)) & 255
    return at + 5


@nb.njit(cache=True)
def _frame(
    out: Bytes,
    command: Bytes,
    lifetime: Bytes,
    prefix: Bytes,
    suffix: Bytes,
    name_offsets: Ints,
    names: Bytes,
    slots: Ints,
    state_texts: Bytes,
    state_at: Ints,
    time_texts: Bytes,
    time_at: Ints,
    time_of: Ints,
    sizes: Ints,
    times: Ints,
    places: Ints,
    payloads: Ints,
) -> int:
    """Everything but the states and the sums: `places` says where the former belong, `payloads` what the latter are of."""
    views, n = sizes.shape
    others = len(time_of)
    packed = np.empty((others, 24), np.uint8)
    lengths = np.empty(others, np.int64)
    at = 0
    for i in range(n):
        at = number(out, at, 42, 4)  # *
        at = put(out, at, command)
        a, b = name_offsets[slots[i]], name_offsets[slots[i] + 1]
        at = key(out, at, prefix, names[a:b], suffix)
        at = put(out, at, lifetime)
        size = 6 + len(state_texts) + len(time_texts) + 1
        for v in range(views):
            size += _text_bytes(sizes[v, i])
        for t in range(others):
            lengths[t] = timestamp(packed[t], times[time_of[t], i])
            size += _text_bytes(lengths[t])
        whole = 1 + (1 if size < 64 else (2 if size < 16384 else 5)) + size + 10
        at = number(out, at, 36, whole)  # $
        payloads[i, 0], payloads[i, 1] = at, at + whole - 8
        out[at] = 16
        at = _length(out, at + 1, size)
        at = _little(out, at, size, 4)
        at = _little(out, at, 2 * (views + others), 2)
        for v in range(views):
            at = put(out, at, state_texts[state_at[v] : state_at[v + 1]])
            at = _before(out, at, sizes[v, i])
            places[v, i] = at
            at = _behind(out, at + sizes[v, i], sizes[v, i] + _before_bytes(sizes[v, i]))
        for t in range(others):
            at = put(out, at, time_texts[time_at[t] : time_at[t + 1]])
            at = _before(out, at, lengths[t])
            at = put(out, at, packed[t, : lengths[t]])
            at = _behind(out, at, lengths[t] + _before_bytes(lengths[t]))
        out[at] = 255
        out[at + 1], out[at + 2] = 10, 0  # the format of Redis 7.0
        at = line_end(out, at + 11)
    return at


@nb.njit(cache=True)
def _seal(out: Bytes, payloads: Ints, tables: Ints) -> None:
    for i in range(len(payloads)):
        end = payloads[i, 1]
        crc = _crc(out, payloads[i, 0], end, tables)
        for k in range(8):
            out[end + k] = np.uint8((crc >> np.uint64(8 * k)) & np.uint64(255))


@nb.njit(cache=True)
def _crc(data: Bytes, start: int, end: int, tables: Ints) -> np.uint64:
    low, byte = np.uint64(255), np.uint64(8)
    crc = np.uint64(0)
    at = start
    while at + 8 <= end:
        word = np.uint64(0)
        for k in range(8):
            word |= np.uint64(data[at + k]) << np.uint64(8 * k)
        word ^= crc
        crc = np.uint64(0)
        for k in range(8):
            crc ^= tables[7 - k, np.int64((word >> np.uint64(8 * k)) & low)]
        at += 8
    while at < end:
        crc = tables[0, np.int64((crc ^ np.uint64(data[at])) & low)] ^ (crc >> byte)
        at += 1
    return crc
