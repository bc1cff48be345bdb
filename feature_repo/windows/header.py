"""A state as bytes: what stands at its head. Everything little-endian, 8-byte words, so a reader needs no parsing.

    word 0      magic "MSW1" (low 32 bits), flags: 0 exact, 1 tiled, 2 sketch (high 32 bits)
    word 1      fingerprint of the layout (`ViewSpec.fingerprint`)
    word 2      rows
    word 3      version: events folded for this key so far
    word 4      floor: the latest event time that may be missing (int64 us), `NOTHING` if none was dropped
    word 5      newest event time folded (int64 us)
    word 6, 7   int64 words a row, float64 words a row
    then        rows x ints, rows x floats, each row in the order of `Layout.parts`

The bytes are a function of the set of events folded, never of their order.
"""

from typing import Final

import numpy as np

from feature_repo.errors import StateError
from feature_repo.windows.columns import Ints
from feature_repo.windows.spec import ViewSpec

MAGIC: Final = 0x3157534D
HEADER: Final = 8
NOTHING: Final = np.iinfo(np.int64).min


def check_header(words: Ints, spec: ViewSpec) -> int:
    """The number of rows in a packed state. Raises `StateError` when it is not a state of this view's layout."""
    if len(words) < HEADER or words[0] & 0xFFFFFFFF != MAGIC:
        msg = f"the stored state of view {spec.name!r} is not a Millstream state (wrong magic); was the field written by something else?"
        raise StateError(msg)
    if words[1] != spec.fingerprint:
        msg = (
            f"the stored state of view {spec.name!r} has another layout (fingerprint {words[1] & 0xFFFFFFFFFFFFFFFF:016x}, expected"
            f" {spec.fingerprint & 0xFFFFFFFFFFFFFFFF:016x}): its definition was changed; restart the flow so that it folds the log anew"
        )
        raise StateError(msg)
    rows = int(words[2])
    expected = HEADER + rows * (spec.layout.n_ints + spec.layout.n_floats)
    if len(words) < expected:
        msg = f"the stored state of view {spec.name!r} is cut off: {len(words)} words of {expected}; let the flow write the key again"
        raise StateError(msg)
    return rows
