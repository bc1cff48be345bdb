"""Read the features of one key from its packed state, as of a time: float64, null = NaN.

The same kernels serve the scorer, `get_online_features` and the offline store. Windows are half-open, `[t - W, t)`;
tiled ones are whole hops, `[floor((t - W) / h) h, floor(t / h) h)`.
"""

import numpy as np

from feature_repo.windows.arrays import Floats
from feature_repo.windows.header import empty_state, state_words
from feature_repo.windows.kernels.read_state import read_words
from feature_repo.windows.kernels.words import NOTHING
from feature_repo.windows.spec import ViewSpec


def read_state(state: bytes | None, spec: ViewSpec, t: int, floor: int = NOTHING) -> tuple[Floats, int]:
    """Return the features of one key as of `t` (int64 UTC us) from its packed state, and the flags.

    The values, float64 [features], stand in the order of `spec.feature_names`, null = NaN. Flags: `CAPPED`,
    `INCOMPLETE` of `kernels.rows`. A key without a state (None) has no events after `floor` (see `expired_before`).
    Raises `StateError` for bytes that are not a state of this view.
    """
    out = np.empty(len(spec.aggregates), np.float64)
    if state is None:
        words = empty_state(spec.fingerprint, floor)
        words.setflags(
            write=False
        )  # read-only, as bytes of a store are: else numba compiles the kernel again
    else:
        words = state_words(state, spec)
    return out, int(read_words(words, spec.layout.tables, t, out))


def expired_before(spec: ViewSpec, now: int) -> int:
    """Return the latest event time (us) that a key without a stored state may have had.

    Online keys expire `lifetime_us` after their last write, so a key that is not stored had no event after this time.
    """
    return now - spec.lifetime_us
