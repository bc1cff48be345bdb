"""Admit events by event time and id: late events, events from the future and duplicates become dead letters.

State is kept per source partition. Decisions follow arrival order and use no clock except the bus's accept time, so a
replay decides the same:

- `future`: the event time is more than `max_future_skew` (5 min) after the bus accepted the event. Files have no such
  clock.
- `late`: more than the allowed lateness (10 min) behind the watermark, the highest event time accepted before it in its
  partition.
- `duplicate`: an event of the same id was accepted, and its event time is still within the allowed lateness. A later
  copy would be late anyway, so the ids of twice the allowed lateness bound the memory.

Only accepted events move the watermark (a late one cannot, one from the future or a duplicate must not), so it can be
computed from the log. The snapshot is a pointer, (watermark, last offset), not the ids: after a restart they are read
back from the log.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
from bytewax.operators import StatefulBatchLogic

from flows import metrics
from flows.blocks import Events, Int64s, Mask, RawBlock
from flows.log.files import recent_rows
from flows.settings import FlowSettings
from flows.streams import EventStream

LATE: Final = "late"
FUTURE: Final = "future"
DUPLICATE: Final = "duplicate"

BEGINNING: Final = -(2**62)
"""Watermark before the first event."""

AdmitState = tuple[int, int]
"""Resume state of a partition: watermark in microseconds, last offset seen."""


class RecentIds:
    """Ids accepted within the allowed lateness, in two generations; the older one is dropped as a whole.

    >>> recent = RecentIds(lateness_us=10)
    >>> recent.add(["a"], [5], watermark=5)
    >>> recent.holds("a", floor=-5), recent.holds("a", floor=6)
    (True, False)
    """

    def __init__(self, lateness_us: int) -> None:
        self._lateness = lateness_us
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._turned_at = BEGINNING

    def disjoint(self, ids: list[str]) -> bool:
        """Whether none of these ids is known; the fast path."""
        return self._young.keys().isdisjoint(ids) and self._old.keys().isdisjoint(ids)

    def holds(self, identity: str, floor: int) -> bool:
        """Whether an event of this id and an event time of at least `floor` was accepted."""
        return max(self._young.get(identity, BEGINNING), self._old.get(identity, BEGINNING)) >= max(
            floor, BEGINNING + 1
        )

    def add(self, ids: list[str], times: list[int], watermark: int) -> None:
        """Add accepted events; every time is at most the watermark."""
        self._young.update(zip(ids, times, strict=True))
        if watermark - self._lateness > self._turned_at:
            # The old generation's times are at most the watermark of the last turn: too late to be accepted now.
            self._old, self._young = self._young, {}
            self._turned_at = watermark


class Admission(StatefulBatchLogic[Events, Events, AdmitState]):
    """Admission of one source partition."""

    def __init__(
        self, stream: EventStream, settings: FlowSettings, log_part: str, state: AdmitState | None
    ) -> None:
        self._stream = stream
        self._settings = settings
        self._log_part = log_part
        self._watermark, self._last_offset = state or (BEGINNING, -1)
        self._recent: RecentIds | None = None
        self._resumed = state is not None

    def on_batch(self, values: list[Events]) -> tuple[list[Events], bool]:
        """Admit blocks of the partition in arrival order; keeps the state."""
        return [self._admit(block) for block in values], StatefulBatchLogic.RETAIN

    def snapshot(self) -> AdmitState:
        """Return a pointer into the log: (watermark, last offset)."""
        return self._watermark, self._last_offset

    def _admit(self, events: Events) -> Events:
        if not events.rows.num_rows:
            return events
        recent = self._recent or self._recall(events.partition)
        self._recent = recent
        rows = events.rows
        times = _microseconds(rows["event_timestamp"])
        future = self._future(events, times)
        names = rows[self._stream.id_column].to_pylist()
        if len(set(names)) == len(names) and recent.disjoint(names):
            highest = np.maximum.accumulate(np.where(future, BEGINNING, times))
            before = np.maximum(np.concatenate(([BEGINNING], highest[:-1])), self._watermark)
            late = ~future & (times < before - self._settings.allowed_lateness_us)
            duplicate = np.zeros(len(names), bool)
            self._watermark = max(self._watermark, int(highest[-1]))
        else:
            before, late, duplicate = self._one_by_one(recent, names, times, future)
        self._last_offset = int(rows["source_offset"][-1].as_py())
        metrics.WATERMARK.labels(events.partition).set(self._watermark / 1e6)
        bad = future | late | duplicate
        if bad.any():
            events = self._reject(events, times, before, bad, future=future, late=late)
        accepted = events.rows
        recent.add(
            accepted[self._stream.id_column].to_pylist(),
            _microseconds(accepted["event_timestamp"]).tolist(),
            self._watermark,
        )
        return events

    def _future(self, events: Events, times: Int64s) -> Mask:
        if not isinstance(events.origin, RawBlock) or events.origin.accepted_us is None:
            return np.zeros(len(times), bool)
        accepted = _microseconds(events.rows["created_timestamp"])
        return np.asarray(times > accepted + self._settings.max_future_skew_us)

    def _one_by_one(
        self, recent: RecentIds, names: list[str], times: Int64s, future: Mask
    ) -> tuple[Int64s, Mask, Mask]:
        """Decide row by row, where an id is known or repeated: (watermark before the row, late, duplicate).

        Duplicates move no watermark.
        """
        before = np.empty(len(names), np.int64)
        late, duplicate = np.zeros(len(names), bool), np.zeros(len(names), bool)
        here: dict[str, int] = {}
        for row, (name, time, ahead) in enumerate(zip(names, times.tolist(), future.tolist(), strict=True)):
            before[row] = self._watermark
            floor = self._watermark - self._settings.allowed_lateness_us
            if ahead:
                continue
            if time < floor:
                late[row] = True
            elif here.get(name, BEGINNING) >= max(floor, BEGINNING + 1) or recent.holds(name, floor):
                duplicate[row] = True
            else:
                here[name] = max(time, here.get(name, BEGINNING))
                self._watermark = max(self._watermark, time)
        return before, late, duplicate

    def _reject(
        self, events: Events, times: Int64s, before: Int64s, bad: Mask, *, future: Mask, late: Mask
    ) -> Events:
        reasons, details = [], []
        names = events.rows[self._stream.id_column]
        created = _microseconds(events.rows["created_timestamp"])
        for row in np.flatnonzero(bad).tolist():
            time = int(times[row])
            if future[row]:
                reasons.append(FUTURE)
                details.append(
                    f"event_timestamp: {_clock(time)} is {_span(time - int(created[row]))} after it was accepted"
                )
            elif late[row]:
                reasons.append(LATE)
                details.append(
                    f"event_timestamp: {_clock(time)} is {_span(int(before[row]) - time)} behind the watermark "
                    f"{_clock(int(before[row]))}; allowed are {self._settings.allowed_lateness_seconds:g} s"
                )
            else:
                reasons.append(DUPLICATE)
                details.append(f"{self._stream.id_column}: {names[row].as_py()!r} was accepted before")
        return events.reject(bad, reasons, details)

    def _recall(self, partition: str) -> RecentIds:
        """Read the ids accepted within the allowed lateness before the pointer."""
        recent = RecentIds(self._settings.allowed_lateness_us)
        if self._resumed:
            rows = recent_rows(
                self._stream,
                self._settings,
                self._log_part,
                partition,
                since_us=self._watermark - self._settings.allowed_lateness_us,
                last_offset=self._last_offset,
            )
            for table in rows:
                ids, times = table[self._stream.id_column], table["event_timestamp"]
                recent.add(ids.to_pylist(), times.cast(pa.int64()).to_pylist(), BEGINNING)
            recent.add([], [], self._watermark)
        return recent


def admission(
    stream: EventStream, settings: FlowSettings, log_part: str
) -> Callable[[AdmitState | None], Admission]:
    """Return the builder for `op.stateful_batch`, one `Admission` per source partition."""
    return lambda state: Admission(stream, settings, log_part, state)


def _microseconds(column: pa.Array) -> Int64s:
    return np.asarray(column.view(pa.int64()).to_numpy())


def _clock(microseconds: int) -> str:
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds))
        .isoformat()
        .replace("+00:00", "Z")
    )


def _span(microseconds: int) -> str:
    return str(timedelta(microseconds=microseconds))
