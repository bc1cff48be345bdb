"""Spread rows that share one coarse instant, such as an hour of PaySim, over that unit of time."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.declare.stream import TIMESTAMP
from flows.bring.mapping import UNIT_US, Time
from flows.bring.reader import Reader


class Spread:
    """Gives rows that share one coarse instant (PaySim's hour) their own, evenly and in file order."""

    def __init__(self, how: Time, reader: Reader) -> None:
        self._width = UNIT_US[how.unit] if how.spread and how.unit else 0
        self._rows: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        if self._width:
            # A first pass over that one column: how many rows share each instant is known only at the end.
            for batch in reader.batches(only=how.column):
                for instant, count in _count(batch.time(how)):
                    self._rows[instant] = self._rows.get(instant, 0) + count

    def apply(self, times: Any) -> Any:
        """Move the instants of a batch apart."""
        if not self._width:
            return times
        valid = np.asarray(pc.is_valid(times))
        t = np.asarray(pc.fill_null(times.cast(pa.int64()), 0)).copy()
        rows = np.flatnonzero(valid)
        rows = rows[np.argsort(t[rows], kind="stable")]
        at = 0
        for instant, count in _count(times):
            seen = self._seen.get(instant, 0)
            places = np.arange(seen, seen + count, dtype=np.int64)
            t[rows[at : at + count]] = instant + places * self._width // self._rows[instant]
            self._seen[instant] = seen + count
            at += count
        return pa.array(t, mask=~valid).cast(TIMESTAMP)


def _count(times: Any) -> list[tuple[int, int]]:
    known = np.asarray(times.cast(pa.int64()).drop_null())
    instants, counts = np.unique(known, return_counts=True)
    return list(zip(instants.tolist(), counts.tolist(), strict=True))
