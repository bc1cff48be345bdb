"""Versions of keys for as-of lookups by two clocks: one row per version, by key, event time and accept time.

Columnar and compiled: rows are kept sorted by (key, event time, accepted, arrival) in two levels, a large one and a
small one for recent rows, so that adding costs little and a lookup is two bisections. Times are int64 UTC microseconds.
Not thread-safe.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.kernel_cache import kernel
from feature_repo.windows.columns import Keys
from flows.blocks import Int64s, Mask

EVER: Final = np.iinfo(np.int64).max
"""A time after all others."""
_SMALL: Final = 4096


class AsOfIndex:
    """All versions of all keys of one changelog. `schema` names the columns that a lookup returns.

    A lookup ignores versions more than `within_us` before its time. Versions more than `keep_us` before the newest may
    be dropped. 0: no limit.
    """

    def __init__(self, schema: pa.Schema, within_us: int = 0, keep_us: int = 0) -> None:
        self.schema = schema
        self._within = within_us
        self._keep = keep_us
        self._newest = -(2**62)
        self._large = _Level.empty(schema)
        self._small = _Level.empty(schema)

    def __len__(self) -> int:
        return len(self._large.order) + len(self._small.order)

    def add(self, keys: Keys, times: Int64s, accepted: Int64s, values: pa.RecordBatch) -> None:
        """Add versions, in any order."""
        if not len(times):
            return
        self._newest = max(self._newest, int(times.max()))
        rows = np.column_stack([keys.hashes, times, accepted])
        self._small = self._small.with_rows(rows, values)
        if len(self._small.order) > max(_SMALL, len(self._large.order) // 4):
            self._large = self._large.with_level(self._small, self._oldest())
            self._small = _Level.empty(self.schema)

    def at(self, keys: Keys, times: Int64s, accepted: Int64s, known: Mask) -> list[pa.Array]:
        """Return per row the version with the greatest (event time, accepted) at or before both times; nulls if none.

        `times` and `accepted` are int64[n] microseconds; rows not in the mask `known` have no key. One array per column
        of the schema.
        """
        oldest = times - self._within if self._within else np.full(len(times), -EVER)
        return self._find(np.column_stack([keys.hashes, times, accepted]), oldest, known)

    def latest(self, keys: Keys, known: Mask) -> list[pa.Array]:
        """Return per row the newest version; nulls if there is none. One array per column of the schema."""
        ever = np.full(len(keys), EVER)
        return self._find(np.column_stack([keys.hashes, ever, ever]), -ever, known)

    def _find(self, wanted: Int64s, oldest: Int64s, known: Mask) -> list[pa.Array]:
        large, large_at = self._large.find(wanted, oldest, known)
        if not len(self._small.order):
            return _take(self._large.values, large)
        small, small_at = self._small.find(wanted, oldest, known)
        newer = (small >= 0) & ((large < 0) | _not_before(small_at, large_at))
        if not newer.any():
            return _take(self._large.values, large)
        lately = _take(self._small.values, small)
        if newer.all():
            return lately
        mask = pa.array(newer)
        return [
            pc.if_else(mask, new, old)
            for new, old in zip(lately, _take(self._large.values, large), strict=True)
        ]

    def _oldest(self) -> int:
        return self._newest - self._keep if self._keep else -EVER


class _Level:
    """Sorted rows [n, 5] (key, key, time, accepted, row number) and the values they stand for."""

    def __init__(self, order: Int64s, values: pa.RecordBatch) -> None:
        self.order = order
        self.values = values

    @classmethod
    def empty(cls, schema: pa.Schema) -> _Level:
        return cls(np.zeros((0, 5), np.int64), pa.RecordBatch.from_pylist([], schema=schema))

    def with_rows(self, rows: Int64s, values: pa.RecordBatch) -> _Level:
        before = self.values.num_rows
        numbered = np.column_stack([rows, np.arange(before, before + len(rows))])
        return _Level(_sorted(np.concatenate([self.order, numbered])), _concat(self.values, values))

    def with_level(self, other: _Level, oldest: int) -> _Level:
        more = other.order.copy()
        more[:, 4] += self.values.num_rows
        order = np.concatenate([self.order, more])
        values = _concat(self.values, other.values)
        kept = order[:, 2] >= oldest
        if not kept.all():
            order = order[kept]
            numbers = np.sort(order[:, 4])
            values = values.take(pa.array(numbers))
            order[:, 4] = np.searchsorted(numbers, order[:, 4])
        return _Level(_sorted(order), values)

    def find(self, wanted: Int64s, oldest: Int64s, known: Mask) -> tuple[Int64s, Int64s]:
        """Return per wanted row (row number or -1, [time, accepted]); int64[n], int64[n, 2]."""
        found = np.full(len(wanted), -1, np.int64)
        at = np.zeros((len(wanted), 2), np.int64)
        if len(self.order):
            _find(self.order, wanted, oldest, known, found, at)
        return found, at


def _sorted(order: Int64s) -> Int64s:
    return np.ascontiguousarray(order[np.lexsort(order.T[::-1])])


def _concat(a: pa.RecordBatch, b: pa.RecordBatch) -> pa.RecordBatch:
    columns = [pa.concat_arrays([x, y]) for x, y in zip(a.columns, b.columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=a.schema)


def _take(values: pa.RecordBatch, rows: Int64s) -> list[pa.Array]:
    """Take rows of all columns, null at -1."""
    missing = rows < 0
    if missing.all():
        return [pa.nulls(len(rows), column.type) for column in values.schema]
    taken: list[pa.Array] = values.take(pa.array(rows, mask=missing)).columns
    return taken


def _not_before(a: Int64s, b: Int64s) -> npt.NDArray[np.bool_]:
    return np.asarray((a[:, 0] > b[:, 0]) | ((a[:, 0] == b[:, 0]) & (a[:, 1] >= b[:, 1])))


@kernel
def _find(order: Int64s, wanted: Int64s, oldest: Int64s, known: Mask, found: Int64s, at: Int64s) -> None:
    for i in range(len(wanted)):
        if not known[i]:
            continue
        k0, k1, t, c = wanted[i, 0], wanted[i, 1], wanted[i, 2], wanted[i, 3]
        low, high = 0, len(order)
        while low < high:  # the first row after (key, t)
            middle = (low + high) // 2
            row = order[middle]
            after = row[0] > k0 or (row[0] == k0 and (row[1] > k1 or (row[1] == k1 and row[2] > t)))
            if after:
                high = middle
            else:
                low = middle + 1
        j = low - 1
        while j >= 0 and order[j, 0] == k0 and order[j, 1] == k1 and order[j, 2] >= oldest[i]:
            if order[j, 3] <= c:
                found[i] = order[j, 4]
                at[i, 0], at[i, 1] = order[j, 2], order[j, 3]
                break
            j -= 1
