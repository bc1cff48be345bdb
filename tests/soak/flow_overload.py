"""Producers send three times what the flow can take; its memory stays flat, it catches up afterwards, and nothing is
lost.

Blocks are small here, so that the flow is short of CPU at a rate that a Python producer can exceed. A trial measures
that rate on a backlog, sends three times as much for 200 s (three trials take 10 minutes), then a third of it until
the flow has caught up.

- Resident memory in the second half of the overload: at most a tenth and 32 MB above the first half. The backlog is on
the bus. - Catching up: at least twice the arrival rate. - Each event is logged once, and the online store equals the
fold of the log.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Final

import pyarrow.parquet as pq
import redis
from pydantic import SecretStr

from flows.local.redis_server import EmbeddedServer
from flows.settings import FlowSettings
from tests.kits.flow_output import log_rows, states_from_log, states_online
from tests.kits.flow_process import Flow, running_flow
from tests.kits.payments import START, encoded, payment
from tests.kits.process_memory import resident_mb
from tests.kits.views import apply_views

TRIALS: Final = 3
ALONE: Final = True
OVERLOAD: Final = 3.0
NORMAL: Final = 1 / 3
BLOCK_EVENTS: Final = 32
BACKLOG: Final = 12_000
_TICK_S: Final = 0.01
_STEP: Final = timedelta(milliseconds=250)
"""Event time between two payments; the allowed lateness spans 2,400 of them."""


class Producer:
    """Publishes events at a fixed rate, whatever the flow does (open loop)."""

    def __init__(self, client: redis.Redis, partitions: int, seed: int) -> None:
        self._client, self._partitions, self._seed = client, partitions, seed
        self.sent = 0
        self._end = Event()
        self._thread: Thread | None = None

    def send(self, count: int) -> None:
        """Publish `count` events at once."""
        for first in range(self.sent, self.sent + count, 500):
            pipe = self._client.pipeline(transaction=False)
            for n in range(first, min(first + 500, self.sent + count)):
                value = encoded(payment(n, START + n * _STEP, account_id=f"a{(n * 7919 + self._seed) % 97}"))
                pipe.xadd(f"millstream:payments:{n % self._partitions}", {"v": value})
            pipe.execute()
        self.sent += count

    def run(self, rate: float) -> None:
        """Publish at this rate from now on."""
        self.close()
        self._end = Event()
        self._thread = Thread(target=self._run, args=(rate, self._end), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send no more."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, rate: float, end: Event) -> None:
        began, before = time.monotonic(), self.sent
        while not end.is_set():
            due = before + int((time.monotonic() - began) * rate)
            if due > self.sent:
                self.send(due - self.sent)
            time.sleep(_TICK_S)


class Logged:
    """Counts the events in the published log; reads each file once."""

    def __init__(self, settings: FlowSettings) -> None:
        self._folder = settings.payments_log
        self._rows: dict[str, int] = {}

    def __call__(self) -> int:
        for entry in os.scandir(self._folder) if self._folder.is_dir() else ():
            if entry.name not in self._rows:
                self._rows[entry.name] = pq.read_metadata(entry.path).num_rows
        return sum(self._rows.values())


def trial(seed: int, seconds: float = 200.0, backlog: int = BACKLOG) -> str:
    """One overload of `seconds` seconds."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "server") as server:
        settings = FlowSettings(
            home=Path(folder) / "home",
            redis_url=server.url,
            epoch_ms=500,
            block_events=BLOCK_EVENTS,
            bus_retention="unread",
            pseudonym_key=SecretStr("off"),
        )
        settings.home.mkdir()
        apply_views(settings)
        client = redis.Redis.from_url(server.url)
        producer, count = Producer(client, settings.bus_partitions, seed), Logged(settings)
        producer.send(backlog)
        with running_flow(settings) as process, contextlib.closing(producer):
            rate = _takes(count, process, backlog)
            producer.run(OVERLOAD * rate)
            began, taken = time.monotonic(), count()
            early = _most_mb(process, seconds / 2)
            late = _most_mb(process, seconds / 2)
            offered = producer.sent
            behind, under_load = offered - count(), (count() - taken) / (time.monotonic() - began)
            producer.run(NORMAL * rate)
            catching_up = _level(count, producer, process)
            producer.close()
            process.wait_for(lambda: count() == producer.sent, seconds=600)
            time.sleep(2 * settings.epoch_ms / 1000)
        assert behind > rate * seconds / 2, f"this was no overload: {behind:,} behind after {seconds:.0f} s"
        assert late <= early * 1.1 + 32, f"memory grew from {early} to {late} MB"
        assert catching_up >= 2 * NORMAL * rate, (
            f"{catching_up:,.0f}/s against {NORMAL * rate:,.0f}/s arriving"
        )
        rows = log_rows(settings, ["event_id"])
        assert rows.num_rows == producer.sent == len(set(rows["event_id"].to_pylist()))
        assert states_online(client) == states_from_log(settings, client)
    return (
        f"takes {rate:,.0f}/s; offered {OVERLOAD:g} times that for {seconds:.0f} s it took {under_load:,.0f}/s with {early} then "
        f"{late} MB, fell {behind:,} behind, caught up at {catching_up:,.0f}/s while {NORMAL * rate:,.0f}/s arrived; "
        f"{producer.sent:,} in, {rows.num_rows:,} logged"
    )


def _takes(count: Logged, process: Flow, backlog: int) -> float:
    """Measure events per second on a backlog."""
    process.wait_for(lambda: count() > 0, seconds=900)
    began, before = time.monotonic(), count()
    process.wait_for(lambda: count() >= backlog - backlog // 10, seconds=900)
    return (count() - before) / (time.monotonic() - began)


def _most_mb(process: Flow, seconds: float) -> int:
    most, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.is_alive(), "the flow ended under the load"
        most = max(most, resident_mb(process.pid))
        time.sleep(0.2)
    return most


def _level(count: Logged, producer: Producer, process: Flow) -> float:
    """Measure events per second until 95 % of the backlog is gone."""
    began, before = time.monotonic(), count()
    backlog = producer.sent - before
    process.wait_for(lambda: producer.sent - count() < backlog * 0.05, seconds=3_600)
    return (count() - before) / (time.monotonic() - began)
