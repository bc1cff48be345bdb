"""Time from the publishing of a payment until it can be read in the online store, measured by a client of the store.

A payment counts as readable when the newest event time stored for its account (`_ts:<view>`, which the flow writes
together with the state) is not before the payment's. The clock starts just before the payment is sent to the bus, and
the store is read every millisecond, so a figure is too long by at most a round trip and a millisecond, and never too
short.
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

POLL_EVERY_S: Final = 0.001
GIVE_UP_S: Final = 30.0


@dataclass(frozen=True)
class Sample:
    """A payment to look for; `began` by `time.perf_counter`."""

    key: bytes
    event_us: int
    began: float
    measured: bool


class FreshnessProbe:
    """Looks for sampled payments in a thread of its own.

    `milliseconds` holds one figure per measured sample found, `unreadable` counts those given up after `GIVE_UP_S`,
    `outstanding` those still looked for. Raises `DefinitionError` if no applied view is keyed by account.
    """

    def __init__(self, client: redis.Redis, views: Path, pseudonyms: Pseudonyms) -> None:
        applied = read_views(views)
        specs = applied.entities("payments").get(("account_id",))
        if not specs:
            raise DefinitionError(
                "no windowed view keyed by account has been applied, so freshness cannot be measured",
                where=views,
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
        """Look for a payment from now on; `began` by `time.perf_counter`, `event_us` its event time."""
        key = (
            key_prefix(["account_id"]) + key_values([self._pseudonyms.of(account_id, PARTY)]) + self._project
        )
        self.outstanding += 1
        self._coming.put(Sample(key, event_us, began, measured))

    def finish(self) -> None:
        """Wait until every sample has been found or given up."""
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
                time.sleep(POLL_EVERY_S)

    def _look(self, pending: list[Sample]) -> list[Sample]:
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for sample in pending:
                    pipe.hget(sample.key, self._field)  # type: ignore[arg-type]  # bytes work; the stubs allow str only
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
