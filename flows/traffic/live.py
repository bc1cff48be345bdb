"""One run of live traffic: ask for the score of each payment when its time has come, publish it once it is answered.

This is the order of a payment system: it decides first and publishes what it decided. A run begins with a second or
so of warm-up, which is scored and published like everything else but not measured: the flow loads its states when the
first payment of a partition arrives, and connections have to be opened. The measured part begins when all warm-up
payments have been answered and can be read in the online store.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final

import pyarrow as pa
import redis

from feature_repo.errors import FlowError
from flows.generate import Events, World, epoch_us, split_labels
from flows.publish.bus import BusPublisher, encode
from flows.traffic import report
from flows.traffic.freshness import FreshnessProbe
from flows.traffic.scoring import ScoreClient

BLOCK_S: Final = 0.02
"""Seconds of charges, customers and merchants that are published together."""
SAMPLES_PER_SECOND: Final = 20
"""At most about so many payments per second are watched by the freshness probe."""
READABLE_WITHIN_S: Final = 120.0
_LEAD: Final = timedelta(milliseconds=250)
_HEAD_START: Final = timedelta(milliseconds=100)
_FIRST_HEAD_START: Final = timedelta(seconds=5)
"""By how much the first charges of a run are published before its payments: their flow loads its states with them."""


@dataclass(frozen=True, slots=True)
class _Payment:
    """One payment to publish; `watched`: the freshness probe looks for it."""

    row: pa.Table
    body: bytes
    account_id: str
    time_us: int
    watched: bool
    measured: bool


@dataclass
class Traffic:
    """Live traffic of a generated world.

    `rate`: payments per second. `partitions`: partitions of the bus. `out`: path of the report. Without `scores`,
    payments are only published; without `probe`, freshness is not measured. The counters hold what has been published
    so far.
    """

    client: redis.Redis
    world: World
    pending: pa.Table
    rate: float
    partitions: int
    out: Path
    scores: ScoreClient | None
    probe: FreshnessProbe | None
    payments: int = 0
    labels: int = 0
    customers: int = 0
    merchants: int = 0
    charges: int = 0
    warm_up: dict[str, Any] = field(default_factory=dict)
    _sent: int = 0
    _lock: Lock = field(default_factory=Lock)
    _failure: redis.RedisError | None = None

    def run(self, *, seconds: float | None, warm_up_seconds: float) -> None:
        """Score and publish for `seconds` (None: for ever); return when every payment is answered and published.

        Raises `FlowError` if the warm-up payments are not answered and readable within `READABLE_WITHIN_S`, and
        `redis.RedisError` if the bus refuses an entry.
        """
        if warm_up_seconds:
            self._warm_up(warm_up_seconds)
        self._go(seconds, measured=True, head_start=_HEAD_START)
        for part in (self.scores, self.probe):
            if part is not None:
                part.finish()
        self._check()
        self._report(done=True)

    def _warm_up(self, seconds: float) -> None:
        began = time.perf_counter()
        self._go(seconds, measured=False, head_start=_FIRST_HEAD_START)
        # The probe learns of a payment when it is published, that is after its answer: ask the client first.
        parts = [part for part in (self.scores, self.probe) if part is not None]
        while any(part.outstanding for part in parts):
            self._check()
            if time.perf_counter() - began > READABLE_WITHIN_S:
                raise FlowError(
                    f"the first payments were not scored and readable within {READABLE_WITHIN_S:.0f} s",
                    where="online store and scorer",
                    todo="are they running? python -m bytewax.run flows.payments, python -m serving",
                )
            time.sleep(0.01)
        self.warm_up = {"payments": self.payments, "seconds": round(time.perf_counter() - began, 2)}
        self._report(done=False)

    def _go(self, seconds: float | None, *, measured: bool, head_start: timedelta) -> None:
        start = (
            datetime.now(UTC)
            + head_start
            + (_LEAD if seconds is None else _LEAD + timedelta(milliseconds=5 * seconds))
        )
        blocks: Iterable[Events] = self.world.live(
            epoch_us(start), rate=self.rate, seconds=seconds, block_seconds=BLOCK_S
        )
        if seconds is not None:
            blocks = list(blocks)  # generate them beforehand: it would delay the answers that are measured
            gc.freeze()
        reported, labels = time.monotonic(), []
        for number, block in enumerate(blocks, start=1):
            self._check()
            if number == 1:  # it holds the charges that came before the start, of payments soon after it
                _sleep_until(epoch_us(start - head_start))
                self._publish_charges(block)
            for payment in self._payments(block.payments, measured=measured):
                _sleep_until(payment.time_us)
                self._send(payment)
            due = start + timedelta(seconds=number * BLOCK_S)
            _sleep_until(epoch_us(due))
            self._publish_others(block)
            if number > 1:
                self._publish_charges(block)
            labels.append(block.labels)
            if time.monotonic() - reported > 1.0:
                reported = time.monotonic()
                self._publish_labels(labels, due)
                labels = []
                self._report(done=False)
        self._publish_labels(labels, datetime.now(UTC))

    def _payments(self, table: pa.Table, *, measured: bool) -> list[_Payment]:
        every = max(round(self.rate / SAMPLES_PER_SECOND), 1) if measured else 1
        accounts = table["account_id"].to_pylist()
        times = table["event_timestamp"].cast(pa.int64()).to_pylist()
        made = [
            _Payment(table.slice(i, 1), body, account, time_us, (self._sent + i) % every == 0, measured)
            for i, (body, account, time_us) in enumerate(zip(encode(table), accounts, times, strict=True))
        ]
        self._sent += len(made)
        return made

    def _send(self, payment: _Payment) -> None:
        publish = partial(self._publish_payment, payment)
        if self.scores is None:
            publish()
        else:
            self.scores.ask(payment.body, measured=payment.measured, then=publish)

    def _publish_payment(self, payment: _Payment) -> None:
        """Publish one payment; called by the client's threads, so a failure is kept for the main thread."""
        began = time.perf_counter()
        try:
            self._publish("payments", payment.row)
        except redis.RedisError as error:
            self._failure = error
            return
        with self._lock:
            self.payments += 1
            if self.probe is not None and payment.watched:
                self.probe.watch(payment.account_id, payment.time_us, began, measured=payment.measured)

    def _publish_others(self, block: Events) -> None:
        """Publish the versions of customers and merchants that arrived during a block."""
        self.customers += self._publish("customers", block.customers.table)
        self.merchants += self._publish("merchants", block.merchants.table)

    def _publish_charges(self, block: Events) -> None:
        self.charges += self._publish("charges", block.charges.table)

    def _publish(self, stream: str, rows: pa.Table) -> int:
        return BusPublisher(self.client, self.partitions).publish(stream, rows)

    def _publish_labels(self, new: list[pa.Table], known_by: datetime) -> None:
        """Publish the labels that are known by now. Those of the live payments lie days ahead and are kept."""
        known, self.pending = split_labels([self.pending, *new], known_by)
        if known.num_rows:
            self.labels += self._publish("labels", known)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _report(self, *, done: bool) -> None:
        report.write(
            self.out,
            published={
                "payments": self.payments,
                "labels": self.labels,
                "customers": self.customers,
                "merchants": self.merchants,
                "charges": self.charges,
            },
            warm_up=self.warm_up,
            scores=self.scores,
            probe=self.probe,
            done=done,
        )


def _sleep_until(time_us: int) -> None:
    time.sleep(max(time_us / 1e6 - time.time(), 0.0))
