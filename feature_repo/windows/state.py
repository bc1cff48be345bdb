"""The state of a windowed view: the rows (events or tiles) kept per key, as flat arrays, and the same rows as bytes.

In memory a key is a *slot*; its rows stand in order in one segment of two large arrays (see `kernels.rows`). The
bytes of a packed state are described in `kernels.words`.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from feature_repo.windows.arrays import Bytes, Floats, Ints
from feature_repo.windows.columns import Events, Keys
from feature_repo.windows.header import check_header, empty_state, state_words, whole_words
from feature_repo.windows.kernels.fold import fold_events, fold_tiles
from feature_repo.windows.kernels.key_table import append_names, find_slots, rehash
from feature_repo.windows.kernels.packing import RowBytes, find_events, first_wrong, load, pack, rows_wanted
from feature_repo.windows.kernels.read_then_fold import read_then_fold
from feature_repo.windows.kernels.rows import (
    IN_USE,
    SEG_FLOOR,
    SEG_NEWEST,
    SEG_ROWS,
    SEG_SIZE,
    SEG_VERSION,
    EventArrays,
    StateArrays,
)
from feature_repo.windows.kernels.sketch import fold_sketch
from feature_repo.windows.kernels.words import (
    HEADER,
    NOTHING,
)
from feature_repo.windows.spec import ViewSpec

_FIRST_SLOTS: Final = 64
_FIRST_ROWS: Final = 256
_SLOT: Final = np.zeros(1, np.int64)

Number = TypeVar("Number", bound=np.generic)


class KeyIndex:
    """Slots (0, 1, 2, ...) of keys, found by the keys' 128-bit hashes, and the bytes of each key."""

    def __init__(self) -> None:
        self._n = 0
        self._table: npt.NDArray[Any] = np.full(4 * _FIRST_SLOTS, -1, np.int32)
        self._hashes: Ints = np.zeros((_FIRST_SLOTS, 2), np.int64)
        self._offsets: Ints = np.zeros(_FIRST_SLOTS + 1, np.int64)
        self._data: Bytes = np.zeros(16 * _FIRST_SLOTS, np.uint8)

    def __len__(self) -> int:
        return self._n

    def slots(self, keys: Keys) -> Ints:
        """Return the slot of every row's key, int64 [n]; new keys get the next slots."""
        n, known = len(keys), self._n
        if 2 * (known + n) > len(self._table):
            self._table = np.full(2 * 2 ** int(known + n).bit_length(), -1, np.int32)
            rehash(self._table, self._hashes, known)
        self._hashes = _with_room(self._hashes, known, known + n)
        slots = np.empty(n, np.int64)
        fresh = np.empty(n, np.int64)
        n_fresh = find_slots(self._table, self._hashes, known, keys.hashes, slots, fresh)
        if n_fresh:
            fresh = fresh[:n_fresh]
            end = int(self._offsets[known])
            more = int((keys.offsets[fresh + 1] - keys.offsets[fresh]).sum())
            self._offsets = _with_room(self._offsets, known + 1, known + 1 + n_fresh)
            self._data = _with_room(self._data, end, end + more)
            append_names(self._offsets, self._data, known, keys.offsets, keys.data, fresh)
            self._n = known + n_fresh
        return slots

    def name(self, slot: int) -> bytes:
        """Return the bytes of the key of a slot (see `columns.Keys`)."""
        return self._data[self._offsets[slot] : self._offsets[slot + 1]].tobytes()

    def export(self) -> Keys:
        """Return all keys in slot order, as views of arrays whose contents do not change later.

        Passing them to `slots` of an empty index gives the same slots.
        """
        n = self._n
        return Keys(self._hashes[:n], self._offsets[: n + 1], self._data[: self._offsets[n]])


class ViewState:
    """The rows of one view for any number of keys. Times are int64 UTC us."""

    def __init__(self, spec: ViewSpec) -> None:
        self.spec = spec
        layout = spec.layout
        self._kind = int(spec.tiled + spec.sketch)
        self._row_bytes = (8 * layout.n_ints, 8 * layout.n_floats)
        free = np.full(IN_USE + 1, -1, np.int64)
        free[IN_USE] = 0
        self._arrays = StateArrays(
            ints=np.zeros((_FIRST_ROWS, layout.n_ints), np.int64),
            floats=np.zeros((_FIRST_ROWS, layout.n_floats), np.float64),
            segments=_no_rows(np.zeros((_FIRST_SLOTS, 7), np.int64)),
            free=free,
        )

    def fold(self, slots: Ints, events: Events) -> None:
        """Fold events, in any order; event i belongs to the key of `slots[i]`.

        An event that is older than all windows of a read within the grace, or that is not among the newest `2 *
        capacity` of its key, only raises the version and the floor.
        """
        if len(slots) == 0:
            return
        self._room_for_slots(int(slots.max()) + 1)
        given, done = EventArrays(slots, events.ints, events.floats), 0
        while done < len(slots):
            done = self._fold(given, done)
            if done < len(slots):
                self._grow_rows()

    def read_then_fold(self, slots: Ints, events: Events) -> Floats:
        """For every event, in the order given: read the features of its key as of its own time, then fold it.

        Returns float64 [events, features] in the order of `spec.feature_names`, null = NaN; incomplete windows are
        NaN too. The resulting state is that of `fold`.
        """
        out = np.empty((len(slots), len(self.spec.aggregates)), np.float64)
        if len(slots) == 0:
            return out
        self._room_for_slots(int(slots.max()) + 1)
        spec, given, done = self.spec, EventArrays(slots, events.ints, events.floats), 0
        tables, merge = spec.layout.tables, spec.layout.merge
        while done < len(slots):
            done = int(read_then_fold(self._arrays, given, done, tables, merge, spec.retention_us, out))
            if done < len(slots):
                self._grow_rows()
        return out

    def _fold(self, events: EventArrays, start: int) -> int:
        spec = self.spec
        if spec.sketch:
            return int(fold_sketch(self._arrays, events, start, spec.hop_us, spec.retention_us))
        if spec.tiled:
            merge = spec.layout.merge
            return int(fold_tiles(self._arrays, events, start, merge, spec.hop_us, spec.retention_us))
        return int(fold_events(self._arrays, events, start, 2 * spec.capacity, spec.retention_us))

    def sizes(self, slots: Ints) -> Ints:
        """Return the bytes of the packed state of every slot, int64 [n]."""
        if len(slots):
            self._room_for_slots(int(slots.max()) + 1)
        rows: Ints = self._arrays.segments[slots, SEG_ROWS]
        return 8 * HEADER + sum(self._row_bytes) * rows

    def pack(self, slots: Ints) -> tuple[Bytes, Ints]:
        """Return the states of some slots as bytes: (blob, offsets), slot i at `blob[offsets[i]:offsets[i + 1]]`."""
        offsets = np.zeros(len(slots) + 1, np.int64)
        np.cumsum(self.sizes(slots), out=offsets[1:])
        blob = np.empty(int(offsets[-1]), np.uint8)
        self.pack_into(slots, blob, offsets)
        return blob, offsets

    def pack_into(self, slots: Ints, out: Bytes, at: Ints) -> None:
        """Write the state of slot i into `out` from byte `at[i]` on, `sizes(slots)[i]` bytes."""
        a = self._arrays
        ints, floats = a.ints.reshape(-1).view(np.uint8), a.floats.reshape(-1).view(np.uint8)
        rows = RowBytes(ints, floats, a.segments, *self._row_bytes)
        pack(rows, slots, at, out, self.spec.fingerprint, self._kind)

    def load(self, slots: Ints, blob: Bytes, offsets: Ints) -> None:
        """Unpack states into empty slots. Raises `StateError` if they were packed with another layout."""
        if len(slots) == 0:
            return
        spec, words, at = self.spec, blob.view(np.int64), offsets // 8
        wrong = first_wrong(words, at, spec.fingerprint, spec.layout.n_ints + spec.layout.n_floats)
        if wrong >= 0:
            check_header(words[at[wrong] : at[wrong + 1]], spec)
        self._room_for_slots(int(slots.max()) + 1)
        self._room_for_rows(int(self._arrays.free[IN_USE]) + rows_wanted(words, at))
        load(self._arrays, slots, words, at)

    def versions(self, slots: Ints) -> Ints:
        """Return the number of events folded so far, int64 [n]; it is the same after a replay of the same events."""
        return np.asarray(self._arrays.segments[slots, SEG_VERSION])

    def newest(self, slots: Ints) -> Ints:
        """Return the newest event time folded (us), int64 [n]."""
        return np.asarray(self._arrays.segments[slots, SEG_NEWEST])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, unused room included."""
        a = self._arrays
        return a.ints.nbytes + a.floats.nbytes + a.segments.nbytes

    def _room_for_slots(self, n: int) -> None:
        have = len(self._arrays.segments)
        if n > have:
            segments = _with_room(self._arrays.segments, have, n)
            _no_rows(segments[have:])
            self._arrays = self._arrays._replace(segments=segments)

    def _grow_rows(self) -> None:
        self._room_for_rows(2 * len(self._arrays.ints))

    def _room_for_rows(self, n: int) -> None:
        a, used = self._arrays, int(self._arrays.free[IN_USE])
        if n > len(a.ints):
            self._arrays = a._replace(ints=_with_room(a.ints, used, n), floats=_with_room(a.floats, used, n))


def _no_rows(segments: Ints) -> Ints:
    segments[:, SEG_SIZE] = -1
    segments[:, SEG_FLOOR] = NOTHING
    segments[:, SEG_NEWEST] = NOTHING
    return segments


def _with_room(array: npt.NDArray[Number], used: int, wanted: int) -> npt.NDArray[Number]:
    """Return the array if it has `wanted` rows, else a copy of its first `used` rows with at least twice the room.

    Unused room costs no memory: the system provides zeroed pages when they are first written.
    """
    if wanted <= len(array):
        return array
    grown = np.zeros((max(wanted, 2 * len(array)), *array.shape[1:]), array.dtype)
    grown[:used] = array[:used]
    return grown


def fold_packed(state: bytes | None, spec: ViewSpec, events: Events, floor: int) -> bytes:
    """Return a packed state with events folded into it, by the kernels of `ViewState.fold`.

    A key without a state (None) may have had events up to `floor` (us). Raises `StateError` for bytes that are not a
    state of this view.
    """
    words = empty_state(spec.fingerprint, floor) if state is None else whole_words(state, spec)
    copy = ViewState(spec)
    copy.load(_SLOT, words.view(np.uint8), np.array([0, words.nbytes], np.int64))
    copy.fold(np.zeros(len(events), np.int64), events)
    packed, _ = copy.pack(_SLOT)
    return packed.tobytes()


def has_folded(state: bytes | None, spec: ViewSpec, times: Ints, ids: Ints) -> npt.NDArray[np.bool_]:
    """Return which events (bool [n]) of one key a packed state of an exact view needs no more.

    Those are the events that it holds, and those that it would drop: at or before its floor, or older than its
    retention. `times`, int64 [n] (us), and `ids`, int64 [n, 2], describe the events. A key without a state (None) has
    folded none. Raises `StateError` for bytes that are not a state of this view.
    """
    if state is None:
        return np.zeros(len(times), np.bool_)
    folded = np.empty(len(times), np.bool_)
    find_events(state_words(state, spec), spec.layout.n_ints, spec.retention_us, times, ids, folded)
    return folded
