"""Check that stored bytes are a state of a view's layout. The words of a state are described in `kernels.words`."""

from typing import Final

import numpy as np

from feature_repo.errors import StateError
from feature_repo.windows.arrays import Ints
from feature_repo.windows.kernels.words import HEADER, MAGIC, NOTHING, WORD_FINGERPRINT, WORD_MAGIC, WORD_ROWS
from feature_repo.windows.spec import ViewSpec

_TODO: Final = "wait until the flow has written the key again"


def whole_words(state: bytes, spec: ViewSpec) -> Ints:
    """Return stored bytes as int64 words (read-only). Raises `StateError` when they are not a whole number of words."""
    if len(state) % 8:
        raise StateError(f"the stored state of view {spec.name!r} is not a whole number of words", todo=_TODO)
    return np.frombuffer(state, np.int64)


def state_words(state: bytes, spec: ViewSpec) -> Ints:
    """Return a packed state as int64 words (read-only).

    Raises `StateError` when it is not a state of this view's layout.
    """
    words = whole_words(state, spec)
    check_header(words, spec)
    return words


def check_header(words: Ints, spec: ViewSpec) -> int:
    """Return the number of rows in a packed state (int64 words).

    Raises `StateError` when it is not a state of this view's layout.
    """
    if len(words) < HEADER or words[WORD_MAGIC] & 0xFFFFFFFF != MAGIC:
        msg = f"the stored state of view {spec.name!r} is not a Millstream state (wrong magic); was the field written by something else?"
        raise StateError(msg)
    if words[WORD_FINGERPRINT] != spec.fingerprint:
        msg = (
            f"the stored state of view {spec.name!r} has another layout (fingerprint {words[WORD_FINGERPRINT] & 0xFFFFFFFFFFFFFFFF:016x}, expected"
            f" {spec.fingerprint & 0xFFFFFFFFFFFFFFFF:016x}): its definition was changed; restart the flow so that it folds the log again"
        )
        raise StateError(msg)
    rows = int(words[WORD_ROWS])
    expected = HEADER + rows * (spec.layout.n_ints + spec.layout.n_floats)
    if len(words) < expected:
        msg = f"the stored state of view {spec.name!r} is truncated: {len(words)} of {expected} words"
        raise StateError(msg, todo=_TODO)
    return rows


def empty_state(fingerprint: int, floor: int) -> Ints:
    """Return the header (int64 [8], read-only) of a state without events; those up to `floor` (us) may be missing."""
    words = np.array([MAGIC, fingerprint, 0, 0, floor, NOTHING, 0, 0], np.int64)
    words.setflags(
        write=False
    )  # like bytes from a store: numba would compile kernels again for a writable array
    return words
