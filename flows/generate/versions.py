"""Rows of a stream beside the payments: the raw table, and when each row reaches the bus."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from feature_repo.declare.stream import CREATED_TIMESTAMP, TIMESTAMP
from flows.generate.draws import Ints

NEVER = np.iinfo(np.int64).max
"""An instant, epoch microseconds, that does not come."""

MONTH_US = 30 * 86_400_000_000
SNAPSHOT_US = 3_600_000_000
"""A changelog begins with a snapshot of what is true already, spread over so long before the first payment."""


class Versions(NamedTuple):
    """A raw table in the order of arrival; `arrivals` is int64 epoch microseconds, one per row, never before the event."""

    table: pa.Table
    arrivals: Ints

    def slice(self, low: int, high: int) -> "Versions":
        """Rows from `low` to before `high`."""
        return Versions(self.table.slice(low, high - low), self.arrivals[low:high])

    def merged(self, other: "Versions") -> "Versions":
        """Return the rows of both, in order of arrival."""
        arrivals = np.concatenate([self.arrivals, other.arrivals])
        order = np.argsort(arrivals, kind="stable")
        return Versions(pa.concat_tables([self.table, other.table]).take(order), arrivals[order])

    def stamped(self) -> pa.Table:
        """The rows with their arrival as `created_timestamp`: what a file says that is to be replayed as it came in."""
        return self.table.append_column(CREATED_TIMESTAMP.field, pa.array(self.arrivals).cast(TIMESTAMP))


def in_snapshot(start: int, n: int) -> Ints:
    """Times of n versions that were true before `start`, ascending and all before it."""
    return start - SNAPSHOT_US + np.arange(n, dtype=np.int64) * SNAPSHOT_US // max(n, 1)
