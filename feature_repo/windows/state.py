"""The state of a windowed view: the rows (events or tiles) kept per key, as flat arrays, and the same rows as bytes.

In memory a key is a *slot*; its rows stand in one contiguous segment of two big arrays (`ints`, `floats`), in order, starting at
`head`, so that dropping the oldest row is `head += 1` and reading is a slice. Segments come in powers of two; freed ones are
kept on a free list per size.

The bytes are described in `header`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numba as nb
import numpy as np
import numpy.typing as npt

from feature_repo.windows.columns import Bytes, Events, Floats, Ints, Keys
from feature_repo.windows.header import HEADER, MAGIC, NOTHING, check_header
from feature_repo.windows.kernels.fold import fold_events, fold_tiles
from feature_repo.windows.kernels.read_then_fold import read_then_fold
from feature_repo.windows.kernels.sketch import fold_sketch
from feature_repo.windows.read import read_tables
from feature_repo.windows.spec import ViewSpec

_FIRST_SLOTS: Final = 64
_FIRST_ROWS: Final = 256

Number = TypeVar("Number", bound=np.generic)


class KeyIndex:
    """Slots for keys: an open-addressing table from a key's 128-bit hash to 0, 1, 2 ..., and the bytes of each key."""

    def __init__(self) -> None:
        self._n = 0
        self._table: npt.NDArray[Any] = np.full(4 * _FIRST_SLOTS, -1, np.int32)
        self._hashes: Ints = np.zeros((_FIRST_SLOTS, 2), np.int64)
        self._offsets: Ints = np.zeros(_FIRST_SLOTS + 1, np.int64)
        self._data: Bytes = np.zeros(16 * _FIRST_SLOTS, np.uint8)

    def __len__(self) -> int:
        return self._n

    def slots(self, keys: Keys) -> Ints:
        """The slot of every row's key; keys not seen before get the next ones."""
        n, known = len(keys), self._n
        if 2 * (known + n) > len(self._table):
            self._table = np.full(2 * 2 ** int(known + n).bit_length(), -1, np.int32)
            _rehash(self._table, self._hashes, known)
        self._hashes = _with_room(self._hashes, known, known + n)
        slots = np.empty(n, np.int64)
        fresh = np.empty(n, np.int64)
        n_fresh = _find_slots(self._table, self._hashes, known, keys.hashes, slots, fresh)
        if n_fresh:
            fresh = fresh[:n_fresh]
            end = int(self._offsets[known])
            more = int((keys.offsets[fresh + 1] - keys.offsets[fresh]).sum())
            self._offsets = _with_room(self._offsets, known + 1, known + 1 + n_fresh)
            self._data = _with_room(self._data, end, end + more)
            _append_names(self._offsets, self._data, known, keys.offsets, keys.data, fresh)
            self._n = known + n_fresh
        return slots

    def name(self, slot: int) -> bytes:
        return self._data[self._offsets[slot] : self._offsets[slot + 1]].tobytes()

    def export(self) -> Keys:
        """All keys in slot order; `slots` of them into an empty index gives the same slots. What it holds never changes."""
        n = self._n
        return Keys(self._hashes[:n], self._offsets[: n + 1], self._data[: self._offsets[n]])


@dataclass
class _Arrays:
    """The flat arrays a kernel works on; replaced by larger copies when they are full."""

    ints: Ints
    floats: Floats
    segments: Ints
    """[slots, 7]: start, log2 of capacity (-1: none), head, rows, version, floor, newest."""
    free: Ints
    """[64]: first free segment of each size, -1 if none; the next one stands in its first int word. free[63]: rows in use."""


class ViewState:
    """The rows of one view for any number of keys. Fold with `fold`, read bytes with `pack`; times are int64 UTC us."""

    def __init__(self, spec: ViewSpec) -> None:
        self.spec = spec
        layout = spec.layout
        self._kind = int(spec.tiled + spec.sketch)
        self._row_bytes = (8 * layout.n_ints, 8 * layout.n_floats)
        free = np.full(64, -1, np.int64)
        free[63] = 0
        self._a = _Arrays(
            ints=np.zeros((_FIRST_ROWS, layout.n_ints), np.int64),
            floats=np.zeros((_FIRST_ROWS, layout.n_floats), np.float64),
            segments=_no_rows(np.zeros((_FIRST_SLOTS, 7), np.int64)),
            free=free,
        )

    def fold(self, slots: Ints, events: Events) -> None:
        """Fold events, in any order, each into the key of its slot.

        An event that is older than anything a read may still ask for, or that is not among the newest `2 * capacity` of its key, only
        counts into the version and raises the floor.
        """
        if len(slots) == 0:
            return
        self._room_for_slots(int(slots.max()) + 1)
        done = 0
        while done < len(slots):
            done = self._fold(slots, events, done)
            if done < len(slots):
                self._grow_rows()

    def read_then_fold(self, slots: Ints, events: Events) -> Floats:
        """For every event, in the order given: the features of its key as of its own time from the state so far; then it is folded.

        Returns float64 [events, features] in the order of `spec.feature_names`, null = NaN; so is a window the state cannot answer for.
        The state ends up as after `fold`.
        """
        out = np.empty((len(slots), len(self.spec.aggregates)), np.float64)
        if len(slots) == 0:
            return out
        self._room_for_slots(int(slots.max()) + 1)
        spec = self.spec
        reads, meta = read_tables(spec)
        done = 0
        while True:
            a = self._a
            done = int(
                read_then_fold(
                    a.ints,
                    a.floats,
                    a.segments,
                    a.free,
                    slots,
                    events.ints,
                    events.floats,
                    done,
                    reads,
                    meta,
                    spec.layout.merge,
                    spec.retention_us,
                    out,
                )
            )
            if done == len(slots):
                return out
            self._grow_rows()

    def _fold(self, slots: Ints, events: Events, start: int) -> int:
        a, spec = self._a, self.spec
        if spec.sketch:
            return int(
                fold_sketch(
                    a.ints,
                    a.floats,
                    a.segments,
                    a.free,
                    slots,
                    events.ints,
                    events.floats,
                    start,
                    spec.hop_us,
                    spec.retention_us,
                )
            )
        if spec.tiled:
            return int(
                fold_tiles(
                    a.ints,
                    a.floats,
                    a.segments,
                    a.free,
                    slots,
                    events.ints,
                    events.floats,
                    start,
                    spec.layout.merge,
                    spec.hop_us,
                    spec.retention_us,
                )
            )
        return int(
            fold_events(
                a.ints,
                a.floats,
                a.segments,
                a.free,
                slots,
                events.ints,
                events.floats,
                start,
                2 * spec.capacity,
                spec.retention_us,
            )
        )

    def sizes(self, slots: Ints) -> Ints:
        """Bytes of the packed state, per slot."""
        if len(slots):
            self._room_for_slots(int(slots.max()) + 1)
        rows: Ints = self._a.segments[slots, 3]
        return 8 * HEADER + sum(self._row_bytes) * rows

    def pack(self, slots: Ints) -> tuple[Bytes, Ints]:
        """The states of some slots as bytes: (blob, offsets), slot i at `blob[offsets[i]:offsets[i + 1]]`."""
        offsets = np.zeros(len(slots) + 1, np.int64)
        np.cumsum(self.sizes(slots), out=offsets[1:])
        blob = np.empty(int(offsets[-1]), np.uint8)
        self.pack_into(slots, blob, offsets)
        return blob, offsets

    def pack_into(self, slots: Ints, out: Bytes, at: Ints) -> None:
        """Write the states of some slots into `out`, slot i from byte `at[i]` on, `sizes(slots)[i]` bytes of it."""
        a = self._a
        ints, floats = a.ints.reshape(-1).view(np.uint8), a.floats.reshape(-1).view(np.uint8)
        _pack(ints, floats, *self._row_bytes, a.segments, slots, at, out, self.spec.fingerprint, self._kind)

    def load(self, slots: Ints, blob: Bytes, offsets: Ints) -> None:
        """Put packed states back into empty slots. Raises `StateError` if they were packed under another layout."""
        if len(slots) == 0:
            return
        spec, words, at = self.spec, blob.view(np.int64), offsets // 8
        wrong = _first_wrong(words, at, spec.fingerprint, spec.layout.n_ints + spec.layout.n_floats)
        if wrong >= 0:
            check_header(words[at[wrong] : at[wrong + 1]], spec)
        self._room_for_slots(int(slots.max()) + 1)
        self._room_for_rows(int(self._a.free[63]) + _rows_wanted(words, at))
        _load(self._a.ints, self._a.floats, self._a.segments, self._a.free, slots, words, at)

    def versions(self, slots: Ints) -> Ints:
        """Events folded so far, per slot: grows with every event, the same after any replay of the same events."""
        return np.asarray(self._a.segments[slots, 4])

    def newest(self, slots: Ints) -> Ints:
        """The newest event time folded, per slot."""
        return np.asarray(self._a.segments[slots, 6])

    @property
    def nbytes(self) -> int:
        a = self._a
        return a.ints.nbytes + a.floats.nbytes + a.segments.nbytes

    def _room_for_slots(self, n: int) -> None:
        have = len(self._a.segments)
        if n > have:
            self._a.segments = _with_room(self._a.segments, have, n)
            _no_rows(self._a.segments[have:])

    def _grow_rows(self) -> None:
        self._room_for_rows(2 * len(self._a.ints))

    def _room_for_rows(self, n: int) -> None:
        a, used = self._a, int(self._a.free[63])
        a.ints, a.floats = _with_room(a.ints, used, n), _with_room(a.floats, used, n)


def _no_rows(segments: Ints) -> Ints:
    segments[:, 1] = -1
    segments[:, 5] = NOTHING
    segments[:, 6] = NOTHING
    return segments


def _with_room(array: npt.NDArray[Number], used: int, wanted: int) -> npt.NDArray[Number]:
    """The array if it has `wanted` rows, else a copy of its first `used` rows with at least twice the room.

    Room never written to costs no memory: the system hands out zeroed pages when they are first touched.
    """
    if wanted <= len(array):
        return array
    grown = np.zeros((max(wanted, 2 * len(array)), *array.shape[1:]), array.dtype)
    grown[:used] = array[:used]
    return grown


@nb.njit(cache=True)
def _rehash(table: Ints, hashes: Ints, n: int) -> None:
    mask = len(table) - 1
    for slot in range(n):
        at = hashes[slot, 1] & mask
        while table[at] >= 0:
            at = (at + 1) & mask
        table[at] = slot


@nb.njit(cache=True)
def _find_slots(table: Ints, hashes: Ints, known: int, wanted: Ints, slots: Ints, fresh: Ints) -> int:
    """Fill `slots`; list in `fresh` the rows whose key is new, in the order of their new slots. Returns their number."""
    mask = len(table) - 1
    n_fresh = 0
    for i in range(len(wanted)):
        at = wanted[i, 1] & mask
        while True:
            slot = table[at]
            if slot < 0:
                slot = known + n_fresh
                table[at] = slot
                hashes[slot, 0], hashes[slot, 1] = wanted[i, 0], wanted[i, 1]
                fresh[n_fresh] = i
                n_fresh += 1
                break
            if hashes[slot, 0] == wanted[i, 0] and hashes[slot, 1] == wanted[i, 1]:
                break
            at = (at + 1) & mask
        slots[i] = slot
    return n_fresh


@nb.njit(cache=True)
def _append_names(offsets: Ints, data: Bytes, known: int, new_offsets: Ints, new: Bytes, rows: Ints) -> None:
    at = offsets[known]
    for i in range(len(rows)):
        for k in range(new_offsets[rows[i]], new_offsets[rows[i] + 1]):
            data[at] = new[k]
            at += 1
        offsets[known + i + 1] = at


@nb.njit(cache=True)
def _copy(source: Bytes, first: int, n: int, target: Bytes, at: int) -> None:
    """Slices first: indices that cannot be negative let the compiler copy 32 bytes at a time."""
    source, target = source[first : first + n], target[at : at + n]
    for k in range(n):
        target[k] = source[k]


@nb.njit(cache=True)
def _pack(
    ints: Bytes,
    floats: Bytes,
    int_row: int,
    float_row: int,
    segments: Ints,
    slots: Ints,
    offsets: Ints,
    out: Bytes,
    fingerprint: int,
    kind: int,
) -> None:
    """The rows of a key stand in one piece in the arrays, so a state is its header and two copies."""
    header = np.empty(HEADER, np.int64)
    header[0], header[1] = MAGIC | (kind << 32), fingerprint
    header[6], header[7] = int_row // 8, float_row // 8
    header_bytes = header.view(np.uint8)
    for i in range(len(slots)):
        segment = segments[slots[i]]
        rows, first = segment[3], segment[0] + segment[2]
        header[2], header[3], header[4], header[5] = rows, segment[4], segment[5], segment[6]
        at = offsets[i]
        _copy(header_bytes, 0, 8 * HEADER, out, at)
        _copy(ints, first * int_row, rows * int_row, out, at + 8 * HEADER)
        _copy(floats, first * float_row, rows * float_row, out, at + 8 * HEADER + rows * int_row)


@nb.njit(cache=True)
def _first_wrong(words: Ints, at: Ints, fingerprint: int, row_words: int) -> int:
    """The first state that is none of this layout, -1 if there is none."""
    for i in range(len(at) - 1):
        n = at[i + 1] - at[i]
        if n < HEADER or words[at[i]] & 0xFFFFFFFF != MAGIC or words[at[i] + 1] != fingerprint:
            return i
        if n < HEADER + words[at[i] + 2] * row_words:
            return i
    return -1


@nb.njit(cache=True)
def _rows_wanted(words: Ints, at: Ints) -> int:
    """Rows of the segments that hold these states."""
    wanted = 0
    for i in range(len(at) - 1):
        size = 0
        while (1 << size) < words[at[i] + 2]:
            size += 1
        wanted += 1 << size
    return wanted


@nb.njit(cache=True)
def _load(
    ints: Ints, floats: Floats, segments: Ints, free: Ints, slots: Ints, words: Ints, offsets: Ints
) -> None:
    n_ints, n_floats = ints.shape[1], floats.shape[1]
    as_floats = words.view(np.float64)
    for i in range(len(slots)):
        at = offsets[i]
        rows = words[at + 2]
        size = 0
        while (1 << size) < rows:
            size += 1
        start = free[63]
        free[63] += 1 << size
        segment = segments[slots[i]]
        segment[0], segment[1], segment[2], segment[3] = start, size, 0, rows
        segment[4], segment[5], segment[6] = words[at + 3], words[at + 4], words[at + 5]
        at += HEADER
        for r in range(start, start + rows):
            for c in range(n_ints):
                ints[r, c] = words[at]
                at += 1
        for r in range(start, start + rows):
            for c in range(n_floats):
                floats[r, c] = as_floats[at]
                at += 1
