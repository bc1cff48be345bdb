"""How long until a payment sent to the bus can be read in the online store, seen from outside.

A payment counts as readable when the newest event time stored for its account (`_ts:<view>`, which the flow writes
together with the state) has reached it. The clock starts just before the payment is sent to the bus, the store is asked
every millisecond: a figure is up to a round trip and a millisecond too long, never too short.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final

import redis

from feature_repo.errors import DefinitionError
from feature_repo.privacy import PARTY, Pseudonyms
from feature_repo.stores.applied_views import read_views
from feature_repo.stores.redis_layout.keys import decode_timestamp, key_prefix, key_values, time_field

ASK_EVERY_S: Final = 0.001
GIVE_UP_S: Final = 30.0


@dataclass(frozen=True)
class Sample:
    """A payment under watch; `began` by `time.perf_counter`."""

    key: bytes
    event_us: int
    began: float
    measured: bool


class FreshnessProbe:
    """Watches samples in a thread of its own. Raises `DefinitionError` if no view is kept per account."""

    def __init__(self, client: redis.Redis, views: Path, pseudonyms: Pseudonyms) -> None:
        applied = read_views(views)
        specs = applied.entities("payments").get(("account_id",))
        if not specs:
            raise DefinitionError(
                "no windowed view per account has been applied, freshness cannot be seen", where=views
            )
        self._client = client
        self._pseudonyms = pseudonyms
        self._field = time_field(specs[0].name)
        self._project = applied.project.encode()
        self._coming: SimpleQueue[Sample | None] = SimpleQueue()
        self.milliseconds: list[float] = []
        self.unreadable = 0
        self.outstanding = 0
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def watch(self, account_id: str, event_us: int, began: float, *, measured: bool) -> None:
        """Begin to look for a payment."""
        key = (
            key_prefix(["account_id"]) + key_values([self._pseudonyms.of(account_id, PARTY)]) + self._project
        )
        self.outstanding += 1
        self._coming.put(Sample(key, event_us, began, measured))

    def finish(self) -> None:
        """Wait until every sample was seen or given up."""
        self._coming.put(None)
        self._thread.join()

    def _work(self) -> None:
        pending: list[Sample] = []
        closing = False
        while pending or not closing:
            try:
                while not closing:
                    sample = self._coming.get_nowait() if pending else self._coming.get()
                    closing = sample is None
                    if sample is not None:
                        pending.append(sample)
            except Empty:
                pass
            if pending:
                pending = self._look(pending)
                time.sleep(ASK_EVERY_S)

    def _look(self, pending: list[Sample]) -> list[Sample]:
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for sample in pending:
                    pipe.hget(sample.key, self._field)  # type: ignore[arg-type]  # bytes are fine; the stubs know str only
                found: list[bytes | None] = pipe.execute()
        except redis.RedisError:
            found = [None] * len(pending)
        now = time.perf_counter()
        left = []
        for sample, value in zip(pending, found, strict=True):
            if value is not None and decode_timestamp(value) >= sample.event_us:
                if sample.measured:
                    self.milliseconds.append((now - sample.began) * 1000)
            elif now - sample.began > GIVE_UP_S:
                self.unreadable += 1
            else:
                left.append(sample)
        self.outstanding -= len(pending) - len(left)
        return left
