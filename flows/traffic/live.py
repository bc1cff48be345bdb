"""One run of live traffic: each payment published when its time has come, then scored, several at a time.

It begins with a second or so of warm-up, published and scored like everything else but not measured: the flow loads its
states when the first payment of a shard arrives, and connections have to be opened. Measuring begins when the warm-up's
payments are readable and answered.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import redis

from feature_repo.errors import FlowError
from flows.generate import Events, World, epoch_us, split_labels
from flows.publish.bus import BusPublisher, encode
from flows.traffic import report
from flows.traffic.freshness import FreshnessProbe
from flows.traffic.scoring import Asker

BLOCK_S: Final = 0.02
SAMPLES_A_SECOND: Final = 20
READABLE_WITHIN_S: Final = 120.0
_LEAD: Final = timedelta(milliseconds=250)


@dataclass
class Traffic:
    """`out` is the report. Without an asker payments are only published, without a probe freshness is not measured."""

    client: redis.Redis
    world: World
    pending: pa.Table
    rate: float
    partitions: int
    out: Path
    asker: Asker | None
    probe: FreshnessProbe | None
    payments: int = 0
    labels: int = 0
    customers: int = 0
    merchants: int = 0
    charges: int = 0
    warm_up: dict[str, Any] = field(default_factory=dict)

    def run(self, *, seconds: float | None, warm_up_seconds: float) -> None:
        """Publish and score for so long, None for ever; returns when every answer is there."""
        if warm_up_seconds:
            self._warm_up(warm_up_seconds)
        self._go(seconds, measured=True)
        for part in (self.asker, self.probe):
            if part is not None:
                part.finish()
        self._report(done=True)

    def _warm_up(self, seconds: float) -> None:
        began = time.perf_counter()
        self._go(seconds, measured=False)
        parts = [part for part in (self.probe, self.asker) if part is not None]
        while any(part.outstanding for part in parts):
            if time.perf_counter() - began > READABLE_WITHIN_S:
                raise FlowError(
                    f"the first payments were not readable and scored within {READABLE_WITHIN_S:.0f} s",
                    where="online store and scorer",
                    todo="are they running? python -m bytewax.run flows.payments, uvicorn serving.app:app",
                )
            time.sleep(0.01)
        self.warm_up = {"payments": self.payments, "seconds": round(time.perf_counter() - began, 2)}
        self._report(done=False)

    def _go(self, seconds: float | None, *, measured: bool) -> None:
        start = datetime.now(UTC) + (
            _LEAD if seconds is None else _LEAD + timedelta(milliseconds=5 * seconds)
        )
        blocks: Iterable[Events] = self.world.live(
            epoch_us(start), rate=self.rate, seconds=seconds, block_seconds=BLOCK_S
        )
        if seconds is not None:
            blocks = list(blocks)  # made beforehand: making them would hold up the answers being measured
            gc.freeze()
        every = 1 if not measured else max(round(self.rate / SAMPLES_A_SECOND), 1)
        reported, labels = time.monotonic(), []
        for number, block in enumerate(blocks, start=1):
            due = start + timedelta(seconds=number * BLOCK_S)
            time.sleep(max((due - datetime.now(UTC)).total_seconds(), 0.0))
            self._send_others(block)
            if block.payments.num_rows:
                self._send(block.payments, every, measured=measured)
            labels.append(block.labels)
            if time.monotonic() - reported > 1.0:
                reported = time.monotonic()
                self._publish_labels(labels, due)
                labels = []
                self._report(done=False)
        self._publish_labels(labels, datetime.now(UTC))

    def _send(self, payments: pa.Table, every: int, *, measured: bool) -> None:
        """Publish first, score then: what a payment system does, and the harder case for the features."""
        bodies = encode(payments)
        began = time.perf_counter()
        published = self._publish("payments", payments)
        if self.probe is not None:
            accounts = payments["account_id"].to_pylist()
            times = payments["event_timestamp"].cast(pa.int64()).to_pylist()
            for i in range(-self.payments % every, published, every):
                self.probe.watch(accounts[i], times[i], began, measured=measured)
        if self.asker is not None:
            for body in bodies:
                self.asker.ask(body, measured=measured)
        self.payments += published

    def _send_others(self, block: Events) -> None:
        """Before the payments of the block: most charges come a moment before theirs, some in a later block."""
        self.customers += self._publish("customers", block.customers.table)
        self.merchants += self._publish("merchants", block.merchants.table)
        self.charges += self._publish("charges", block.charges.table)

    def _publish(self, stream: str, rows: pa.Table) -> int:
        return BusPublisher(self.client, self.partitions).publish(stream, rows)

    def _publish_labels(self, new: list[pa.Table], known_by: datetime) -> None:
        """Labels that have become known; those of the live payments lie days ahead and wait with the others."""
        known, self.pending = split_labels([self.pending, *new], known_by)
        if known.num_rows:
            self.labels += self._publish("labels", known)

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
            asker=self.asker,
            probe=self.probe,
            done=done,
        )
