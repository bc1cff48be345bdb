"""The state of a windowed view: the rows (events or tiles) kept per key, as flat arrays, and the same rows as bytes.

In memory a key is a *slot*; its rows stand in one contiguous segment of two big arrays (`ints`, `floats`), in order, starting at
`head`, so that dropping the oldest row is `head += 1` and reading is a slice. Segments come in powers of two; freed ones are
kept on a free list per size.

The bytes are described in `header`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from feature_repo.windows.columns import Events, Floats, Ints, Keys
from feature_repo.windows.fold import fold_events, fold_tiles
from feature_repo.windows.header import HEADER, MAGIC, NOTHING, check_header
from feature_repo.windows.read import read_tables
from feature_repo.windows.read_then_fold import read_then_fold
from feature_repo.windows.rows import FULL
from feature_repo.windows.sketch import fold_sketch
from feature_repo.windows.spec import ViewSpec

_FIRST_SLOTS: Final = 64
_FIRST_ROWS: Final = 256


class KeyIndex:
    """Slots for keys: an open-addressing table from a key's 128-bit hash to 0, 1, 2 ..., and the bytes of each key."""

    def __init__(self) -> None:
        self._table: Ints = np.full(4 * _FIRST_SLOTS, -1, np.int64)
        self._hashes: Ints = np.zeros((_FIRST_SLOTS, 2), np.int64)
        self._names: list[bytes] = []

    def __len__(self) -> int:
        return len(self._names)

    def slots(self, keys: Keys) -> Ints:
        """The slot of every row's key; keys not seen before get the next ones."""
        n = len(keys)
        known = len(self)
        if 2 * (known + n) > len(self._table):
            self._table = np.full(4 * 2 ** int(known + n).bit_length(), -1, np.int64)
            _rehash(self._table, self._hashes, known)
        if known + n > len(self._hashes):
            grown = np.zeros((2 ** int(known + n).bit_length(), 2), np.int64)
            grown[:known] = self._hashes[:known]
            self._hashes = grown
        slots = np.empty(n, np.int64)
        fresh = np.empty(n, np.int64)
        n_fresh = _find_slots(self._table, self._hashes, known, keys.hashes, slots, fresh)
        if n_fresh:
            whole = keys.data.tobytes()
            starts, ends = keys.offsets[fresh[:n_fresh]].tolist(), keys.offsets[fresh[:n_fresh] + 1].tolist()
            self._names.extend(whole[a:b] for a, b in zip(starts, ends, strict=True))
        return slots

    def name(self, slot: int) -> bytes:
        return self._names[slot]

    def export(self) -> Keys:
        """All keys in slot order; `slots` of them into an empty index gives the same slots."""
        offsets = np.zeros(len(self) + 1, np.int64)
        np.cumsum([len(name) for name in self._names], out=offsets[1:])
        data = np.frombuffer(b"".join(self._names), np.uint8)
        return Keys(self._hashes[: len(self)].copy(), offsets, data)


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
        free = np.full(64, -1, np.int64)
        free[63] = 0
        self._a = _Arrays(
            ints=np.zeros((_FIRST_ROWS, layout.n_ints), np.int64),
            floats=np.zeros((_FIRST_ROWS, layout.n_floats), np.float64),
            segments=_empty_segments(_FIRST_SLOTS),
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

    def pack(self, slots: Ints) -> tuple[npt.NDArray[np.uint8], Ints]:
        """The states of some slots as bytes: (blob, offsets), slot i at `blob[offsets[i]:offsets[i + 1]]`."""
        if len(slots):
            self._room_for_slots(int(slots.max()) + 1)
        a, layout = self._a, self.spec.layout
        sizes = HEADER + a.segments[slots, 3] * (layout.n_ints + layout.n_floats)
        offsets = np.zeros(len(slots) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        words = np.empty(int(offsets[-1]), np.int64)
        _pack(
            a.ints,
            a.floats,
            a.segments,
            slots,
            offsets,
            words,
            self.spec.fingerprint,
            self.spec.tiled + self.spec.sketch,
        )
        return words.view(np.uint8), offsets * 8

    def load(self, slots: Ints, blob: npt.NDArray[np.uint8], offsets: Ints) -> None:
        """Put packed states back into empty slots. Raises `StateError` if they were packed under another layout."""
        words = blob.view(np.int64)
        for slot, at in zip(slots.tolist(), (offsets[:-1] // 8).tolist(), strict=True):
            rows = check_header(words[at:], self.spec)
            self._room_for_slots(slot + 1)
            while (
                _load(self._a.ints, self._a.floats, self._a.segments, self._a.free, slot, words[at:], rows)
                == FULL
            ):
                self._grow_rows()

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
            self._a.segments = np.concatenate([self._a.segments, _empty_segments(max(n, 2 * have) - have)])

    def _grow_rows(self) -> None:
        a = self._a
        a.ints = np.concatenate([a.ints, np.zeros_like(a.ints)])
        a.floats = np.concatenate([a.floats, np.zeros_like(a.floats)])


def _empty_segments(n: int) -> Ints:
    segments = np.zeros((n, 7), np.int64)
    segments[:, 1] = -1
    segments[:, 5] = NOTHING
    segments[:, 6] = NOTHING
    return segments


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
def _pack(
    ints: Ints,
    floats: Floats,
    segments: Ints,
    slots: Ints,
    offsets: Ints,
    words: Ints,
    fingerprint: int,
    kind: int,
) -> None:
    n_ints, n_floats = ints.shape[1], floats.shape[1]
    as_floats = words.view(np.float64)
    for i in range(len(slots)):
        segment = segments[slots[i]]
        rows = segment[3]
        first = segment[0] + segment[2]
        at = offsets[i]
        words[at] = MAGIC | (kind << 32)
        words[at + 1] = fingerprint
        words[at + 2] = rows
        words[at + 3], words[at + 4], words[at + 5] = segment[4], segment[5], segment[6]
        words[at + 6], words[at + 7] = n_ints, n_floats
        at += HEADER
        for r in range(first, first + rows):
            for c in range(n_ints):
                words[at] = ints[r, c]
                at += 1
        for r in range(first, first + rows):
            for c in range(n_floats):
                as_floats[at] = floats[r, c]
                at += 1


@nb.njit(cache=True)
def _load(ints: Ints, floats: Floats, segments: Ints, free: Ints, slot: int, words: Ints, rows: int) -> Any:
    n_ints, n_floats = ints.shape[1], floats.shape[1]
    size = 0
    while (1 << size) < rows:
        size += 1
    if free[63] + (1 << size) > len(ints):
        return FULL
    start = free[63]
    free[63] += 1 << size
    segment = segments[slot]
    segment[0], segment[1], segment[2], segment[3] = start, size, 0, rows
    segment[4], segment[5], segment[6] = words[3], words[4], words[5]
    as_floats = words.view(np.float64)
    for r in range(rows):
        for c in range(n_ints):
            ints[start + r, c] = words[HEADER + r * n_ints + c]
        for c in range(n_floats):
            floats[start + r, c] = as_floats[HEADER + rows * n_ints + r * n_floats + c]
    return 0
