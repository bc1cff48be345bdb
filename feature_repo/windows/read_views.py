"""The states of all views of a request finished in one call: a call costs more than finishing a small state does."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final, NoReturn

import numba as nb
import numpy as np

from feature_repo.errors import StateError
from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.header import HEADER, MAGIC, NOTHING, check_header
from feature_repo.windows.read import finish_state, forgotten_before, read_tables
from feature_repo.windows.spec import ViewSpec

VERSION, NEWEST, FLAGS = 0, 1, 2
"""Columns of what is found of a view: events folded (-1: it was not asked for), newest event time, flags."""
NOT_ASKED: Final = b""
"""In place of a state: there is no key to read, so every feature is null."""
_ALL_WELL: Final = -1


class ViewReads:
    """Compiled once from the views' specs. `names` are their features, view by view, as `finish` gives the values."""

    def __init__(self, specs: Sequence[ViewSpec]) -> None:
        self.names = tuple(name for spec in specs for name in spec.feature_names)
        self._specs = tuple(specs)
        tables = [read_tables(spec) for spec in specs]
        self._reads = np.concatenate([reads for reads, _ in tables] or [np.zeros((0, 6), np.int64)])
        self._metas = np.array([meta for _, meta in tables], np.int64).reshape(-1, 7)
        self._first = np.array([0, *accumulate(len(reads) for reads, _ in tables)], np.int64)
        self._prints = np.array([spec.fingerprint for spec in specs], np.int64)
        self._empty = [_empty(spec) for spec in specs]
        self.finish([None] * len(specs), 0, 0)  # compile now, not in the first request

    def finish(self, states: Sequence[bytes | None], t: int, now: int) -> tuple[Floats, Ints]:
        """The features as of `t`, float64, null = NaN, and what was found of each view (int64 [views, 3]).

        A state is what the store has of the key, None when it has nothing, `NOT_ASKED` where there is no key. Times are int64 UTC us;
        `now` tells what a key without a state may have forgotten. Raises `StateError` for bytes that are not a state of their view.
        """
        parts = [
            state
            if state is not None
            else head + forgotten_before(spec, now).to_bytes(8, "little", signed=True) + tail
            for state, (head, tail), spec in zip(states, self._empty, self._specs, strict=True)
        ]
        joined = b"".join(parts)
        values = np.empty(len(self.names))
        found = np.empty((len(parts), 3), np.int64)
        ends = np.fromiter(accumulate(map(len, parts)), np.int64, len(parts))
        if len(joined) % 8:
            self._refuse(parts)
        tables = self._first, self._reads, self._metas, self._prints
        if finish_states(np.frombuffer(joined, np.int64), ends, *tables, t, values, found) != _ALL_WELL:
            self._refuse(parts)
        return values, found

    def _refuse(self, parts: list[bytes]) -> NoReturn:
        for part, spec in zip(parts, self._specs, strict=True):
            if len(part) % 8:
                msg = f"the stored state of view {spec.name!r} is not a whole number of words"
                raise StateError(msg, todo="let the flow write the key again")
            if part != NOT_ASKED:
                check_header(np.frombuffer(part, np.int64), spec)
        raise StateError("a stored state cannot be read", todo="let the flow write the key again")


def _empty(spec: ViewSpec) -> tuple[bytes, bytes]:
    """The bytes of a state without events, before and after its floor."""
    words = np.array([MAGIC, spec.fingerprint, 0, 0, 0, NOTHING, 0, 0], np.int64).tobytes()
    return words[:32], words[40:]


@nb.njit(cache=True)
def finish_states(
    words: Any,
    ends: Ints,
    first: Ints,
    reads: Ints,
    metas: Ints,
    fingerprints: Ints,
    t: int,
    out: Floats,
    found: Ints,
) -> int:
    """Finish the states of all views, which stand behind one another in `words`, view v up to byte `ends[v]`.

    Its reads, and its values in `out`, are those from `first[v]` to `first[v + 1]`. Returns the first view whose state is none of its
    own (see `header.check_header`), or -1.
    """
    start = 0
    for v in range(len(metas)):
        end = ends[v] // 8
        values = out[first[v] : first[v + 1]]
        if ends[v] == 8 * start:
            values[:] = np.nan
            found[v, 0], found[v, 1], found[v, 2] = -1, NOTHING, 0
            continue
        if ends[v] % 8 != 0 or end - start < HEADER:
            return v
        state = words[start:end]
        size = HEADER + state[2] * (metas[v, 2] + metas[v, 3])
        if state[0] & 0xFFFFFFFF != MAGIC or state[1] != fingerprints[v] or len(state) < size:
            return v
        found[v, 0], found[v, 1] = state[3], state[5]
        found[v, 2] = finish_state(state, reads[first[v] : first[v + 1]], metas[v], t, values)
        start = end
    return _ALL_WELL
