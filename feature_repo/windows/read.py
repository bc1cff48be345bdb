"""Kernels that finish a state at a time `t`: one row of features per call, float64, null = NaN.

The same kernels serve the scorer, `get_online_features` and the offline store. Windows are half-open, `[t - W, t)`; tiled ones are
whole hops, `[floor((t - W) / h) h, floor(t / h) h)`. Rows are walked once, from the newest back, and every window is finished when
the walk leaves it; since sums are exact, that order does not matter.
"""

from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.header import HEADER, NOTHING, check_header
from feature_repo.windows.kernels.read_events import finish_events
from feature_repo.windows.kernels.read_tiles import finish_tiles
from feature_repo.windows.kernels.rows import CAPPED, INCOMPLETE, first_not_before
from feature_repo.windows.kernels.sketch import finish_sketch
from feature_repo.windows.spec import ViewSpec

__all__ = [
    "CAPPED",
    "INCOMPLETE",
    "finish_state",
    "forgotten_before",
    "no_state",
    "read_state",
    "read_tables",
]


def read_state(
    state: bytes | None, spec: ViewSpec, t: int, floor: int = NOTHING
) -> tuple[npt.NDArray[np.float64], int]:
    """The features of one key as of `t` (int64 UTC us) from its packed state, and the flags.

    Order of the values: `spec.feature_names`. A key without a state has no events after `floor` (see `forgotten_before`).
    Raises `StateError` for bytes that are not a state of this view.
    """
    out = np.empty(len(spec.aggregates), np.float64)
    words = no_state(floor) if state is None else np.frombuffer(state, np.int64)
    if state is not None:
        check_header(words, spec)
    return out, int(finish_state(words, *read_tables(spec), t, out))


def no_state(floor: int = NOTHING) -> Ints:
    """The header of a state without events, of which those up to `floor` may have been forgotten."""
    words = np.array([0, 0, 0, 0, floor, NOTHING, 0, 0], np.int64)
    words.setflags(
        write=False
    )  # as bytes from a store are: to numba another type, and another compilation of seconds
    return words


def forgotten_before(spec: ViewSpec, now: int) -> int:
    """Online keys expire `lifetime_us` after their last write; so a key that is not there may have had events up to this time."""
    return now - spec.lifetime_us


def read_tables(spec: ViewSpec) -> tuple[Ints, Ints]:
    """What `finish_state` needs to know of a view: its reads and its measures.

    Measures, int64 [7]: hop, capacity, int words and float words of a row, value columns, hashed columns, 1 for a sketch.
    """
    layout = spec.layout
    meta = [
        spec.hop_us,
        spec.capacity,
        layout.n_ints,
        layout.n_floats,
        len(spec.values),
        len(spec.hashed),
        int(spec.sketch),
    ]
    return layout.reads, np.array(meta, np.int64)


@nb.njit(cache=True)
def finish_state(words: Any, reads: Ints, meta: Ints, t: int, out: Floats) -> int:
    """Finish a packed state (int64 words; header checked before). Returns the flags."""
    n_ints, n_floats = meta[2], meta[3]
    rows = words[2]
    middle = HEADER + rows * n_ints
    ints = words[HEADER:middle].reshape((rows, n_ints))
    floats = words[middle : middle + rows * n_floats].view(np.float64).reshape((rows, n_floats))
    if meta[6] > 0:
        return finish_sketch(ints, 0, rows, words[4], reads, meta, t, out)
    if meta[0] > 0:
        return finish_tiles(ints, floats, 0, rows, words[4], reads, meta, t, out)
    return finish_events(
        ints, floats, 0, first_not_before(ints, 0, rows, t), words[4], reads, meta, t, out, NOTHING
    )
