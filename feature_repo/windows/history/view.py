"""The features of one view for queries, from the sorted events of a group of keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.functions import COUNT_DISTINCT, DECAYED_SUM, FUNCTIONS, MAX, MEAN_HOP_MAX, MIN
from feature_repo.windows.history.prefix_sums import PrefixSums, hops_of
from feature_repo.windows.history.queries import SortedQueries
from feature_repo.windows.history.sliding import Plan, slide
from feature_repo.windows.history.sliding_sketch import slide_sketch
from feature_repo.windows.history.walk import has_later_accepted, walk_history
from feature_repo.windows.layout import source_of
from feature_repo.windows.spec import ViewSpec

_UNLIMITED: Final = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Group:
    """The sorted events of some keys, and the queries of these keys.

    `created`, int64 [events] (us), are the times of acceptance; None if a query may see all events. `n_values` is one
    more than the largest dense id of a hashed value.
    """

    events: PrefixSums
    created: Ints | None
    n_values: int
    queries: SortedQueries


class HistoryView:
    """The features of one view for `n_rows` queries, filled group by group.

    `out`, float64 [rows, features], null = NaN, and `flags`, uint8 [rows], are the results. `values` and `hashed`
    name the value columns and hashed columns of the groups' events.
    """

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
        self._reads = self._plan_reads()

    def answer(self, group: Group) -> None:
        """Fill in the results of the queries of a group."""
        if group.created is None:
            self._slide(group, group.queries)
            return
        history, queries = group.events.history, group.queries
        later = has_later_accepted(history.times, group.created, history.starts, queries.keys, queries.times)
        self._slide(group, queries.where(~later))
        if later.any():
            self._walk(group, group.created, queries.where(later))

    def _slide(self, group: Group, queries: SortedQueries) -> None:
        spec, sums, history = self._spec, group.events, group.events.history
        if spec.sketch:
            slide_sketch(history, self._values[0], queries, spec.layout.tables.reads, spec.hop_us, self.out)
            return
        for function, kind, column in self._reads[:, :3].tolist():
            sums.provide(function, kind, column)
        maxima = {column for function, _, column in self._reads[:, :3].tolist() if function == MEAN_HOP_MAX}
        hops = hops_of(history, spec.hop_us, maxima, self._decayed if spec.tiled else ())
        plan = Plan(
            hop=spec.hop_us,
            capacity=_UNLIMITED if spec.tiled else spec.capacity,
            windows=np.array(self._windows, np.int64),
            reads=self._reads,
            n_stacks=len(self._stacks),
            n_sets=self._sets,
            n_values=group.n_values,
        )
        slide(history, sums.totals, hops, queries, plan, self.out, self.flags)

    def _walk(self, group: Group, created: Ints, queries: SortedQueries) -> None:
        layout, history = self._spec.layout, group.events.history
        order = np.arange(len(history.times))  # in place of the ids: the events are in their order
        hashes = [history.hashes[i] for i in self._hashed]
        walk_history(
            np.column_stack([history.times, order, order, *hashes, created]),
            np.ascontiguousarray(history.values[self._values].T),
            history.starts,
            queries,
            layout.tables,
            layout.merge,
            self._spec.longest_us,
            self.out,
            self.flags,
        )

    def _plan_reads(self) -> Ints:
        """Return `sliding.Plan.reads`.

        Aggregates that share a stack are consecutive, and a mean follows the sum it divides.
        """
        columns = ([0], self._values, self._hashed)  # by source kind
        reads = []
        for out, a in enumerate(self._spec.aggregates):
            function = FUNCTIONS[a.function]
            kind, column = source_of(a, self._spec.values, self._spec.hashed)
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
