"""Rows of customers, merchants and charges with the time at which each reaches the bus."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from feature_repo.declare.stream import CREATED_TIMESTAMP, TIMESTAMP
from flows.generate.draws import Ints

NEVER = np.iinfo(np.int64).max
"""A time that is never reached (us)."""

MONTH_US = 30 * 86_400_000_000
SNAPSHOT_US = 3_600_000_000
"""A changelog begins with a snapshot of the current state, spread over so long before the first payment."""


class Versions(NamedTuple):
    """A raw table in order of arrival. `arrivals`: int64[rows] (us), never before the event time."""

    table: pa.Table
    arrivals: Ints

    def slice(self, low: int, high: int) -> "Versions":
        """Return the rows from `low` to before `high`."""
        return Versions(self.table.slice(low, high - low), self.arrivals[low:high])

    def merged(self, other: "Versions") -> "Versions":
        """Return the rows of both, in order of arrival."""
        arrivals = np.concatenate([self.arrivals, other.arrivals])
        order = np.argsort(arrivals, kind="stable")
        return Versions(pa.concat_tables([self.table, other.table]).take(order), arrivals[order])

    def stamped(self) -> pa.Table:
        """Return the rows with their arrival as `created_timestamp`, for files that are replayed in this order."""
        return self.table.append_column(CREATED_TIMESTAMP.field, pa.array(self.arrivals).cast(TIMESTAMP))


def in_snapshot(start: int, n: int) -> Ints:
    """Return n ascending times before `start`, for the versions of the snapshot."""
    return start - SNAPSHOT_US + np.arange(n, dtype=np.int64) * SNAPSHOT_US // max(n, 1)
