"""Script calls as bytes: EVALSHA over many rows, packed from the state arrays into one buffer, without objects per row.

One call takes `BATCH` rows: enough that the overhead of the call is small, and few enough that the server answers
readers in between and its allocator reuses its thread's cache (256 rows cost a third more). A call is

    EVALSHA <sha> <rows> <key of each row> <head> (<state of each view> <time of each view>) of each row

in RESP (redis.io/docs/reference/protocol-spec): `*<arguments>`, then `$<length>` and the bytes of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.stores.redis_layout.resp_packing import (
    MOST_TIME,
    as_bytes,
    decimal,
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

BATCH: Final = 32
"""Rows per call."""
_PIECE: Final = 1 << 20
"""Bytes passed to a socket at a time."""
_LENGTH: Final = 16
"""Bytes that `$<length>` and the two line ends around an argument take at most."""

Row = tuple[bytes, list[Any]]
"""Redis key, and the script's arguments for it."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Commands for `rows` rows, `calls` of them, ready to be sent."""

    data: Bytes
    calls: int
    rows: int

    def __len__(self) -> int:
        return self.rows

    def pieces(self) -> Iterator[memoryview]:
        """The bytes in pieces for a socket, whose timeout applies to one piece and not to a whole flush."""
        whole = memoryview(self.data)  # type: ignore[arg-type]  # an array is a buffer, which its type does not say
        for start in range(0, len(whole), _PIECE):
            yield whole[start : start + _PIECE]


def row_calls(sha: str, head: Sequence[Any], rows: Sequence[Row]) -> Calls:
    """Return the calls for rows given as Python objects (plain views, whose rows cost much more than this)."""
    start, fixed = encode("EVALSHA") + encode(sha), b"".join(map(encode, head))
    calls = []
    for at in range(0, len(rows), BATCH):
        some = rows[at : at + BATCH]
        arguments = [*map(encode, (key for key, _ in some)), fixed]
        arguments += [encode(argument) for _, row in some for argument in row]
        n = 3 + len(head) + sum(1 + len(row) for _, row in some)
        calls.append(b"*%d\r\n%b%b%b" % (n, start, encode(len(some)), b"".join(arguments)))
    return Calls(as_bytes(b"".join(calls)), len(calls), len(rows))


class StateCalls:
    """Packs the states of one entity's views. `prefix` and `suffix` turn the bytes of a key into a Redis key."""

    def __init__(self, sha: str, head: Sequence[Any], prefix: bytes, suffix: bytes) -> None:
        self._script = as_bytes(encode("EVALSHA") + encode(sha))
        self._head, self._head_arguments = as_bytes(b"".join(map(encode, head))), len(head)
        self._prefix, self._suffix = as_bytes(prefix), as_bytes(suffix)

    def pack(self, names: Keys, states: Sequence[ViewState], slots: Ints) -> Calls:
        """Return the calls that write the states of `slots`; `names` are the keys in slot order."""
        n, views = len(slots), len(states)
        sizes, times = _sizes_and_times(states, slots)
        calls = -(-n // BATCH)
        lengths = names.offsets[slots + 1] - names.offsets[slots]
        a_row = len(self._prefix) + len(self._suffix) + _LENGTH + views * (2 * _LENGTH + MOST_TIME)
        a_call = len(self._script) + len(self._head) + 3 * _LENGTH
        out = np.empty(int(sizes.sum() + lengths.sum()) + n * a_row + calls * a_call, np.uint8)
        places = np.empty((views, n), np.int64)
        used = _frame(
            out,
            self._script,
            self._head,
            self._head_arguments,
            self._prefix,
            self._suffix,
            names.offsets,
            names.data,
            slots,
            sizes,
            times,
            places,
            BATCH,
        )
        for v, state in enumerate(states):
            state.pack_into(slots, out, places[v])
        return Calls(out[:used], calls, n)


def _sizes_and_times(states: Sequence[ViewState], slots: Ints) -> tuple[Ints, Ints]:
    """Return two arrays [views, slots]: the bytes of each packed state, and its newest event time."""
    sizes = np.empty((len(states), len(slots)), np.int64)
    times = np.empty_like(sizes)
    for v, state in enumerate(states):
        sizes[v] = state.sizes(slots)
        times[v] = state.newest(slots)
    return sizes, times


@kernel
def _frame(
    out: Bytes,
    script: Bytes,
    head: Bytes,
    head_arguments: int,
    prefix: Bytes,
    suffix: Bytes,
    name_offsets: Ints,
    names: Bytes,
    slots: Ints,
    sizes: Ints,
    times: Ints,
    places: Ints,
    batch: int,
) -> int:
    """Write everything but the states; `places` receives the position of each. Returns the bytes used."""
    views, n = sizes.shape
    time = np.empty(24, np.uint8)
    at = 0
    for start in range(0, n, batch):
        end = min(start + batch, n)
        rows = end - start
        at = number(out, at, 42, 3 + rows + head_arguments + rows * 2 * views)  # *
        at = put(out, at, script)
        digits = 1
        while 10**digits <= rows:
            digits += 1
        at = decimal(out, number(out, at, 36, digits), rows)  # $
        for i in range(start, end):
            a, b = name_offsets[slots[i]], name_offsets[slots[i] + 1]
            at = key(out, at, prefix, names[a:b], suffix)
        at = put(out, at, head)
        for i in range(start, end):
            for v in range(views):
                at = number(out, at, 36, sizes[v, i])
                places[v, i] = at
                at = line_end(out, at + sizes[v, i])
            for v in range(views):
                length = timestamp(time, times[v, i])
                at = number(out, at, 36, length)
                at = put(out, at, time[:length])
                at = line_end(out, at)
    return at
