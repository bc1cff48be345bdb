"""Features of many keys at many times from a history of events: the offline side of the fold and the read.

One row per row asked for, in the order asked, as of its time. Events and rows are brought into the order of keys and times once;
then the windows slide along them, and the answers have the very bits of the live read. Keys are worked through in groups, so that
what is kept per event besides its columns stays small, and in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_repo.windows.columns import Events, Floats, Ints, Keys
from feature_repo.windows.history.dense_ids import Numbers, number_values
from feature_repo.windows.history.order import by_key_and_time, has_ties, order_ties
from feature_repo.windows.history.prefix_sums import History, Running
from feature_repo.windows.history.queries import Asked
from feature_repo.windows.history.view import Group, HistoryView, SortedRows
from feature_repo.windows.layout import EVENT_HASHED
from feature_repo.windows.spec import ViewSpec

GROUP_ROWS: Final = 1 << 16
"""Events and rows asked for of a group of keys; a single key may have more."""


@dataclass(frozen=True)
class EventColumns:
    """Events in any order, column by column: the numbers of their keys (`Asked.number`), times, and what views read of them.

    `ids`, int64 [n, 2], is called if two events of a key have the same time. `created`, the acceptance times, hides events from rows
    asked for earlier than that: what the system knew by then.
    """

    keys: Numbers
    times: Ints
    values: Mapping[str, Floats]
    hashed: Mapping[str, Ints]
    ids: Callable[[], Ints]
    created: Ints | None = None


def features_at(
    spec: ViewSpec, keys: Keys, events: Events, wanted: Keys, times: Ints, created: Ints | None = None
) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """The features of `wanted[i]` as of `times[i]` from a history of events.

    Returns float64 [len(wanted), features] in the order of `spec.feature_names` (null = NaN) and uint8 flags (`read.CAPPED`).
    `created`: see `EventColumns`.
    """
    asked = Asked(wanted.hashes, times)
    columns = EventColumns(
        asked.number(keys.hashes),
        np.ascontiguousarray(events.ints[:, 0]),
        dict(zip(spec.values, events.floats.T, strict=True)),
        dict(zip(spec.hashed, events.ints[:, EVENT_HASHED:].T, strict=True)),
        lambda: np.ascontiguousarray(events.ints[:, 1:3]),
        created,
    )
    view = HistoryView(spec, asked.n, spec.values, spec.hashed)
    answer([view], asked, columns)
    return view.out, view.flags


def answer(views: Sequence[HistoryView], asked: Asked, events: EventColumns) -> None:
    """Fill in the answers of views of one key, for the rows asked for. The events' columns are those the views were made for, in order."""
    order, starts = by_key_and_time(events.keys, asked.n_keys, events.times)
    for first, after in _groups(starts, asked.starts):
        group = _group(events, order, starts, asked, first, after)
        for view in views:
            view.answer(group)


def _groups(starts: Ints, row_starts: Ints) -> Iterator[tuple[int, int]]:
    """Ranges of keys that rows are asked of."""
    cost = starts + row_starts
    first, n = 0, len(starts) - 1
    while first < n:
        after = max(first + 1, int(np.searchsorted(cost, cost[first] + GROUP_ROWS, side="right")) - 1)
        yield first, after
        first = after


def _group(events: EventColumns, order: Ints, starts: Ints, asked: Asked, first: int, after: int) -> Group:
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
        n_values = max(n_values, number_values(hashed[mine], hashes[i]))
    rows = slice(asked.starts[first], asked.starts[after])
    return Group(
        Running(History(times, own_starts, values, hashes)),
        None if events.created is None else events.created[mine],
        n_values,
        SortedRows(asked.rows[rows], asked.keys[rows] - np.int32(first), asked.times[rows]),
    )
