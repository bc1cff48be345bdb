"""Prefix sums of a sorted history: an aggregate of a window is the difference of two of them.

The rows of all keys stand one after another. Entry i is about the rows before i, so there is one entry more than
rows. A window lies within one key, so the rows of earlier keys cancel out. Sums are integers modulo 2^128 (squares
2^256), so a difference has the same bits as the sum of the window's own events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.functions import (
    COUNT,
    COUNT_SINCE,
    FIRST,
    LAST,
    LAST_2,
    LAST_3,
    MEAN,
    SECONDS_SINCE_LAST,
    STD,
    SUM,
    VAR,
)
from feature_repo.windows.kernels.decay import weight
from feature_repo.windows.kernels.exact_sum import add_square, add_value
from feature_repo.windows.kernels.tables import HASH, VALUE

NO_ROW: Final = -1


class History(NamedTuple):
    """Events in order of key, time and id."""

    times: Ints
    """int64 [rows], us."""
    starts: Ints
    """int64 [keys + 1]: the first row of each key."""
    values: Floats
    """float64 [value columns, rows], null = NaN."""
    hashes: Ints
    """int64 [hashed columns, rows]: dense ids of the values (`dense_ids.value_ids`), null = 0."""


class Totals(NamedTuple):
    """Prefix sums per column, n = rows + 1. Columns that no aggregate reads are not filled, and cost no memory."""

    known: Ints
    """int64 [value columns, n]: number of values that are not null."""
    known_hashes: Ints
    """int64 [hashed columns, n]: number of values that are not null."""
    sums: Ints
    """int64 [value columns, 2 n]: see `exact_sum`."""
    squares: Ints
    """int64 [value columns, 4 n]."""
    previous: Ints
    """int64 [value columns, n]: the newest row before this one with a value, or `NO_ROW`."""
    following: Ints
    """int64 [value columns, n]: the oldest row from this one on with a value, or the number of rows."""


class Hops(NamedTuple):
    """The hops of a tiled view that have events, key after key."""

    before: Ints
    """int64 [rows + 1]: number of hops that began before this row."""
    numbers: Ints
    """int64 [rows + 1]: time // hop of every hop; entries after the last hop are unused."""
    decayed: Ints
    """int64 [decayed sums, 2 hops]: as of the end of the hop."""
    maxima: Ints
    """int64 [value columns, rows + 1]: number of hops that ended before this row and have a largest value."""
    max_sums: Ints
    """int64 [value columns, 2 (rows + 1)]: the sum of these largest values."""


class PrefixSums:
    """A history and its prefix sums; each is computed when the first view needs it."""

    def __init__(self, history: History) -> None:
        n, columns, hashed = len(history.times) + 1, len(history.values), len(history.hashes)
        self.history = history
        self.totals = Totals(
            known=np.empty((columns, n), np.int64),
            known_hashes=np.empty((hashed, n), np.int64),
            sums=np.empty((columns, 2 * n), np.int64),
            squares=np.empty((columns, 4 * n), np.int64),
            previous=np.empty((columns, n), np.int64),
            following=np.empty((columns, n), np.int64),
        )
        self._made: set[tuple[str, int]] = set()

    def provide(self, function: int, kind: int, column: int) -> None:
        """Compute what an aggregate of this function, source kind and column needs."""
        history, made = self.history, self.totals
        if kind == HASH and function == COUNT:
            self._make("known_hashes", column, _count_known_hashes, history.hashes, made.known_hashes)
        if kind != VALUE:
            return
        if function in {COUNT, MEAN, STD, VAR}:
            self._make("known", column, _count_known, history.values, made.known)
        if function in {SUM, MEAN, STD, VAR}:
            self._make("sums", column, _add_up, history.values, made.sums)
        if function in {STD, VAR}:
            self._make("squares", column, _add_up_squares, history.values, made.squares)
        if function in {LAST, LAST_2, LAST_3, SECONDS_SINCE_LAST, COUNT_SINCE}:
            self._make("previous", column, _find_previous, history.values, made.previous)
        if function == FIRST:
            self._make("following", column, _find_following, history.values, made.following)

    def _make(self, name: str, column: int, function: Any, source: Any, target: Ints) -> None:
        if (name, column) not in self._made:
            function(source[column], target[column])
            self._made.add((name, column))


@kernel
def _count_known(values: Floats, known: Ints) -> None:
    n = 0
    for i in range(len(values)):
        known[i] = n
        n += not np.isnan(values[i])
    known[len(values)] = n


@kernel
def _count_known_hashes(hashes: Ints, known: Ints) -> None:
    n = 0
    for i in range(len(hashes)):
        known[i] = n
        n += hashes[i] != 0
    known[len(hashes)] = n


@kernel
def _add_up(values: Floats, sums: Ints) -> None:
    sums[:2] = 0
    for i in range(len(values)):
        at = 2 * (i + 1)
        sums[at], sums[at + 1] = sums[at - 2], sums[at - 1]
        if not np.isnan(values[i]):
            add_value(sums, at, values[i])


@kernel
def _add_up_squares(values: Floats, squares: Ints) -> None:
    squares[:4] = 0
    for i in range(len(values)):
        at = 4 * (i + 1)
        for k in range(at, at + 4):
            squares[k] = squares[k - 4]
        if not np.isnan(values[i]):
            add_square(squares, at, values[i])


@kernel
def _find_previous(values: Floats, previous: Ints) -> None:
    found = NO_ROW
    for i in range(len(values)):
        previous[i] = found
        if not np.isnan(values[i]):
            found = i
    previous[len(values)] = found


@kernel
def _find_following(values: Floats, following: Ints) -> None:
    found = len(values)
    following[found] = found
    for i in range(len(values) - 1, -1, -1):
        if not np.isnan(values[i]):
            found = i
        following[i] = found


def hops_of(history: History, hop: int, maxima: Iterable[int], decayed: Sequence[tuple[int, int]]) -> Hops:
    """Return the hops of `hop` us (none for 0), with largest values of columns and decayed sums of (column, window)."""
    n, columns = len(history.times) + 1, len(history.values)
    before, numbers = np.zeros(n if hop else 0, np.int64), np.zeros(n if hop else 0, np.int64)
    n_hops = _number_hops(history.times, history.starts, hop, before, numbers) if hop else 0
    made = Hops(
        before,
        numbers,
        np.zeros((len(decayed), 2 * n_hops), np.int64),
        np.empty((columns, n), np.int64),
        np.empty((columns, 2 * n), np.int64),
    )
    if hop:
        for place, (column, window) in enumerate(decayed):
            _decay(history.times, history.values[column], before, hop, window, made.decayed[place])
        for column in maxima:
            _add_up_maxima(history.values[column], before, made.maxima[column], made.max_sums[column])
    return made


@kernel
def _number_hops(times: Ints, starts: Ints, hop: int, before: Ints, numbers: Ints) -> int:
    n = 0
    for key in range(len(starts) - 1):
        for i in range(starts[key], starts[key + 1]):
            before[i] = n
            number = times[i] // hop
            if i == starts[key] or number != numbers[n - 1]:
                numbers[n] = number
                n += 1
    before[len(times)] = n
    return n


@kernel
def _decay(times: Ints, values: Floats, before: Ints, hop: int, window: int, sums: Ints) -> None:
    for i in range(len(values)):
        if not np.isnan(values[i]):
            end = (times[i] // hop + 1) * hop
            add_value(sums, 2 * (before[i + 1] - 1), values[i] * weight(end - times[i], window))


@kernel
def _add_up_maxima(values: Floats, before: Ints, maxima: Ints, sums: Ints) -> None:
    maxima[0] = 0
    sums[:2] = 0
    largest = np.nan
    for i in range(len(values)):
        if not largest >= values[i] and not np.isnan(values[i]):
            largest = values[i]
        at = 2 * (i + 1)
        sums[at], sums[at + 1], maxima[i + 1] = sums[at - 2], sums[at - 1], maxima[i]
        if i + 1 == len(values) or before[i + 2] != before[i + 1]:  # the last event of its hop
            if not np.isnan(largest):
                add_value(sums, at, largest)
                maxima[i + 1] += 1
            largest = np.nan
