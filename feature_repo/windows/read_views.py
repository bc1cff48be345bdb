"""Read the states of all views of a request in one call: a call costs more than reading a small state does."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NoReturn

import numpy as np

from feature_repo.errors import StateError
from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.header import empty_state, state_words
from feature_repo.windows.kernels.read_state import ALL_READ, read_all
from feature_repo.windows.kernels.words import WORD_FLOOR
from feature_repo.windows.read import expired_before
from feature_repo.windows.spec import ViewSpec

NO_KEY: Final = b""
"""In place of a state when the request has no key for the view: every feature is null."""


class ViewReads:
    """Reads all views of some specs.

    `names` are their features, view by view, in the order in which `read` gives the values.
    """

    def __init__(self, specs: Sequence[ViewSpec]) -> None:
        self.names = tuple(name for spec in specs for name in spec.feature_names)
        self._specs = tuple(specs)
        tables = [spec.layout.tables for spec in specs]
        self._tables = (
            np.array([0, *accumulate(len(table.reads) for table in tables)], np.int64),
            np.concatenate([table.reads for table in tables] or [np.zeros((0, 6), np.int64)]),
            np.array([table.measures for table in tables], np.int64).reshape(-1, 7),
            np.array([spec.fingerprint for spec in specs], np.int64),
        )
        self._empty = [_around_floor(spec) for spec in specs]
        self.read([None] * len(specs), 0, 0)  # compile now, not in the first request

    def read(self, states: Sequence[bytes | None], t: int, now: int) -> tuple[Floats, Ints]:
        """Return the features as of `t` (float64, null = NaN) and what was found of each view (int64 [views, 3]).

        `states`: per view the stored bytes of the key, None if nothing is stored, `NO_KEY` if the request has no key
        for it. Columns of the second array: `VERSION`, `NEWEST`, `FLAGS` of `kernels.read_state`. Times are int64 UTC
        us; `now` decides which events a key without a state may have had (`expired_before`). Raises `StateError` for
        bytes that are not a state of their view.
        """
        parts = [
            state
            if state is not None
            else head + expired_before(spec, now).to_bytes(8, "little", signed=True) + tail
            for state, (head, tail), spec in zip(states, self._empty, self._specs, strict=True)
        ]
        joined = b"".join(parts)
        values = np.empty(len(self.names))
        found = np.empty((len(parts), 3), np.int64)
        ends = np.fromiter(accumulate(map(len, parts)), np.int64, len(parts))
        if len(joined) % 8:
            self._raise_for(parts)
        if read_all(np.frombuffer(joined, np.int64), ends, *self._tables, t, values, found) != ALL_READ:
            self._raise_for(parts)
        return values, found

    def _raise_for(self, parts: list[bytes]) -> NoReturn:
        for part, spec in zip(parts, self._specs, strict=True):
            if part != NO_KEY:
                state_words(part, spec)
        raise StateError(
            "a stored state cannot be read", todo="wait until the flow has written the key again"
        )


def _around_floor(spec: ViewSpec) -> tuple[bytes, bytes]:
    """Return the bytes of a state without events, before and after its floor."""
    state = empty_state(spec.fingerprint, 0).tobytes()
    return state[: 8 * WORD_FLOOR], state[8 * (WORD_FLOOR + 1) :]
