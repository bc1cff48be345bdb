"""Features of many keys at many times from a history of events: what folding and reading states gives, for offline use.

One row per query, in the order of the queries, as of its time. Events and queries are sorted by key and time once;
then the windows slide along them. The values have the same bits as those read from states. Keys are processed in
groups, so that what is kept per event stays small and in the CPU cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_repo.windows.arrays import Floats, Ints
from feature_repo.windows.columns import Events, Keys
from feature_repo.windows.history.dense_ids import DenseIds, value_ids
from feature_repo.windows.history.order import by_key_and_time, has_ties, order_ties
from feature_repo.windows.history.prefix_sums import History, PrefixSums
from feature_repo.windows.history.queries import Queries, SortedQueries
from feature_repo.windows.history.view import Group, HistoryView
from feature_repo.windows.kernels.words import EVENT_HASHED, EVENT_ID_HIGH, EVENT_TIME
from feature_repo.windows.spec import ViewSpec

GROUP_ROWS: Final = 1 << 16
"""Events and queries of a group of keys; a single key may have more."""


@dataclass(frozen=True)
class EventColumns:
    """Events in any order, by column.

    Holds the dense ids of their keys (`Queries.key_ids`), times (us), and what views read of them.

    `ids` returns int64 [n, 2]; it is called if two events of a key have the same time. `created`, the times of
    acceptance (us), hides events from queries of an earlier time: what the system knew by then.
    """

    keys: DenseIds
    times: Ints
    values: Mapping[str, Floats]
    hashed: Mapping[str, Ints]
    ids: Callable[[], Ints]
    created: Ints | None = None


def features_at(
    spec: ViewSpec, keys: Keys, events: Events, wanted: Keys, times: Ints, created: Ints | None = None
) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Return the features of `wanted[i]` as of `times[i]` (us) from a history of events.

    Returns float64 [len(wanted), features] in the order of `spec.feature_names`, null = NaN, and uint8 flags
    (`rows.CAPPED`). `created`: see `EventColumns`.
    """
    queries = Queries(wanted.hashes, times)
    columns = EventColumns(
        queries.key_ids(keys.hashes),
        np.ascontiguousarray(events.ints[:, EVENT_TIME]),
        dict(zip(spec.values, events.floats.T, strict=True)),
        dict(zip(spec.hashed, events.ints[:, EVENT_HASHED:].T, strict=True)),
        lambda: np.ascontiguousarray(events.ints[:, EVENT_ID_HIGH:EVENT_HASHED]),
        created,
    )
    view = HistoryView(spec, queries.n, spec.values, spec.hashed)
    answer([view], queries, columns)
    return view.out, view.flags


def answer(views: Sequence[HistoryView], queries: Queries, events: EventColumns) -> None:
    """Fill in the results of views with the same join keys.

    The columns of `events` are those the views were made for, in order.
    """
    order, starts = by_key_and_time(events.keys, queries.n_keys, events.times)
    for first, after in _groups(starts, queries.starts):
        group = _group(events, order, starts, queries, first, after)
        for view in views:
            view.answer(group)


def _groups(starts: Ints, query_starts: Ints) -> Iterator[tuple[int, int]]:
    """Yield ranges of keys with about `GROUP_ROWS` events and queries."""
    cost = starts + query_starts
    first, n = 0, len(starts) - 1
    while first < n:
        after = max(first + 1, int(np.searchsorted(cost, cost[first] + GROUP_ROWS, side="right")) - 1)
        yield first, after
        first = after


def _group(
    events: EventColumns, order: Ints, starts: Ints, queries: Queries, first: int, after: int
) -> Group:
    mine = order[starts[first] : starts[after]]
    own_starts = starts[first : after + 1] - starts[first]
    times = events.times[mine]
    if has_ties(times, own_starts):
        order_ties(mine, times, own_starts, events.ids())
    values = np.empty((len(events.values), len(mine)))
    for i, column in enumerate(events.values.values()):
        np.take(column, mine, out=values[i])
    hashes, n_values = np.empty((len(events.hashed), len(mine)), np.int64), 1
    for i, hashed in enumerate(events.hashed.values()):
        n_values = max(n_values, value_ids(hashed[mine], hashes[i]))
    own, all_ = slice(queries.starts[first], queries.starts[after]), queries.sorted
    return Group(
        PrefixSums(History(times, own_starts, values, hashes)),
        None if events.created is None else events.created[mine],
        n_values,
        SortedQueries(all_.rows[own], all_.keys[own] - np.int32(first), all_.times[own]),
    )
