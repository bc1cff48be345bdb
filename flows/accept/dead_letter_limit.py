"""The dead-letter limit: the flow stops when more than a set share of the latest events are dead letters.

So a bad deploy of a producer, or of our own checks, does not turn the whole stream into dead letters. The window is of
events, not of time: the latest `dead_letter_window` of them or a few more (whole blocks), of all partitions of the
process. The epoch in which the flow stops is not durable; it is read again after the repair.

A restart must not count from zero: a flow that its supervisor starts again and again would let a window of bad events
pass each time. So a stop writes a note beside the dead letters, and the next start begins as if it had seen a window of
events exactly at the limit: it stops at once if more than that share are still bad, and continues if not. To accept the
bad events as dead letters that are repaired later (`python -m flows.redrive`), start once with a limit of 1, which
counts nothing and removes the note.
"""

from __future__ import annotations

import json
from collections import deque
from threading import Lock
from typing import Final

from feature_repo.errors import DeadLetterLimit
from flows.blocks import Events
from flows.settings import FlowSettings
from flows.streams import EventStream

NEVER: Final = 1.0


class DeadLetterLimiter:
    """Counts events and dead letters."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self._stream = stream
        self._limit = settings.dead_letter_limit
        self._least = settings.dead_letter_window
        self._note = settings.dead_letters / f".{stream.name}-stopped.json"
        self._noted = self._note.exists()
        self._blocks: deque[tuple[int, int]] = deque()
        self._all = self._dead = 0
        self._lock = Lock()  # the workers of a process count together
        if self._noted and self._limit < NEVER:
            self._add(self._least, int(self._limit * self._least))
        else:
            self._forget()

    def __call__(self, events: Events) -> Events:
        """Return the events. Raises `DeadLetterLimit` if the limit is exceeded."""
        dead = sum(letters.num_rows for letters in events.dead)
        n = dead + events.rows.num_rows
        if not n or self._limit >= NEVER:
            return events
        with self._lock:
            self._add(n, dead)
            if dead and self._all >= self._least and self._dead > self._limit * self._all:
                self._stop(events)
        return events

    def _add(self, n: int, dead: int) -> None:
        self._blocks.append((n, dead))
        self._all += n
        self._dead += dead
        while self._all - self._blocks[0][0] >= self._least:
            old, old_dead = self._blocks.popleft()
            self._all -= old
            self._dead -= old_dead
            if self._noted:
                self._forget()  # what was taken as seen has left the window

    def _forget(self) -> None:
        self._note.unlink(missing_ok=True)
        self._noted = False

    def _stop(self, events: Events) -> None:
        letter = next(letters for letters in events.dead if letters.num_rows).slice(0, 1).to_pylist()[0]
        what = (
            f"{self._dead:,} of the last {self._all:,} {self._stream.name} became dead letters, "
            f"such as: {letter['reason']}, {letter['detail']}"
        )
        self._note.parent.mkdir(parents=True, exist_ok=True)
        self._note.write_text(json.dumps({"stopped": what}) + "\n", encoding="utf-8")
        raise DeadLetterLimit(
            what,
            where=letter["source_partition"],
            todo=(
                "repair the producer or the checks and start again: what was not durable is read again. Events that stay bad "
                "get through, as dead letters, in one start with MILLSTREAM_DEAD_LETTER_LIMIT=1; "
                "python -m flows.redrive puts them back once they are repaired"
            ),
        )
