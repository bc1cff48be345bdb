"""A view's features of rows asked for, from the sorted events of a group of keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_repo.windows.columns import Floats, Ints
from feature_repo.windows.functions import COUNT_DISTINCT, DECAYED_SUM, FUNCTIONS, MAX, MEAN_HOP_MAX, MIN
from feature_repo.windows.history.dense_ids import Numbers
from feature_repo.windows.history.prefix_sums import Running, hops_of
from feature_repo.windows.history.sliding import slide
from feature_repo.windows.history.sliding_sketch import slide_sketch
from feature_repo.windows.history.walk import hides_something, walk_history
from feature_repo.windows.layout import source_of
from feature_repo.windows.read import read_tables
from feature_repo.windows.spec import ViewSpec

_UNLIMITED: Final = np.iinfo(np.int64).max


@dataclass(frozen=True)
class SortedRows:
    """Rows asked for, by key and time: their places in the answer, their keys (0 is the first of the group), their times."""

    places: Ints
    keys: Numbers
    times: Ints

    def __getitem__(self, mask: npt.NDArray[np.bool_]) -> SortedRows:
        return SortedRows(self.places[mask], self.keys[mask], self.times[mask])


@dataclass(frozen=True)
class Group:
    """The sorted events of some keys, when each was accepted if that counts, how many numbers hashed values have, the rows asked for."""

    events: Running
    created: Ints | None
    n_values: int
    rows: SortedRows


class HistoryView:
    """One view's answers, `out` and `flags`, filled group by group. `values` and `hashed` are the names of the columns of a group."""

    def __init__(self, spec: ViewSpec, n_rows: int, values: Sequence[str], hashed: Sequence[str]) -> None:
        self.out: Floats = np.full((n_rows, len(spec.aggregates)), np.nan)
        self.flags: npt.NDArray[np.uint8] = np.zeros(n_rows, np.uint8)
        self._spec = spec
        self._values = [values.index(name) for name in spec.values]
        self._hashed = [hashed.index(name) for name in spec.hashed]
        self._windows = sorted({a.window_us for a in spec.aggregates})
        self._stacks: list[tuple[int, int]] = []
        self._decayed: list[tuple[int, int]] = []
        self._sets = 0
        self._reads = self._tables()

    def answer(self, group: Group) -> None:
        if group.created is None:
            self._slide(group, group.rows)
            return
        history, rows = group.events.history, group.rows
        hidden = hides_something(history.times, group.created, history.starts, rows.keys, rows.times)
        self._slide(group, rows[~hidden])
        if hidden.any():
            self._walk(group, group.created, rows[hidden])

    def _slide(self, group: Group, rows: SortedRows) -> None:
        spec, running, history = self._spec, group.events, group.events.history
        if spec.sketch:
            slide_sketch(
                history.times,
                history.starts,
                history.values[self._values[0]],
                rows.places,
                rows.keys,
                rows.times,
                spec.layout.reads,
                spec.hop_us,
                self.out,
            )
            return
        for function, kind, column in self._reads[:, :3].tolist():
            running.provide(function, kind, column)
        maxima = {column for function, _, column in self._reads[:, :3].tolist() if function == MEAN_HOP_MAX}
        shape = [spec.hop_us, _UNLIMITED if spec.tiled else spec.capacity, len(self._stacks), self._sets]
        slide(
            history,
            running.totals,
            hops_of(history, spec.hop_us, maxima, self._decayed if spec.tiled else ()),
            rows.places,
            rows.keys,
            rows.times,
            np.array(self._windows, np.int64),
            self._reads,
            np.array([*shape, group.n_values], np.int64),
            self.out,
            self.flags,
        )

    def _walk(self, group: Group, created: Ints, rows: SortedRows) -> None:
        spec, history = self._spec, group.events.history
        order = np.arange(len(history.times))  # stands for the ids: the events are in their order
        hashes = [history.hashes[i] for i in self._hashed]
        walk_history(
            np.column_stack([history.times, order, order, *hashes, created]),
            np.ascontiguousarray(history.values[self._values].T),
            history.starts,
            rows.places,
            rows.keys,
            rows.times,
            *read_tables(spec),
            spec.layout.merge,
            spec.longest_us,
            self.out,
            self.flags,
        )

    def _tables(self) -> Ints:
        """`reads` of `sliding.slide`. Reads that share a stack stand together, and a mean stands behind the sum it is made of."""
        columns = ([0], self._values, self._hashed)  # by source kind
        reads = []
        for out, a in enumerate(self._spec.aggregates):
            function = FUNCTIONS[a.function]
            kind, column = source_of(self._spec, a)
            column, place = columns[kind][column], 0
            if function in (MIN, MAX):
                if (function, column) not in self._stacks:
                    self._stacks.append((function, column))
                place = self._stacks.index((function, column))
            elif function == COUNT_DISTINCT:
                place = self._sets
                self._sets += 1
            elif function == DECAYED_SUM:
                place = len(self._decayed)
                self._decayed.append((column, a.window_us))
            window = self._windows.index(a.window_us)
            extreme = function in (MIN, MAX)
            sorting = (
                (extreme, place, 0, function, window) if extreme else (extreme, column, window, function, 0)
            )
            reads.append((sorting, (function, kind, column, window, out, place)))
        return np.array([read for _, read in sorted(reads)], np.int64)
