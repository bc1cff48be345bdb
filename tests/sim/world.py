"""Replace clock, bus, store and checkpoint writer in the modules of the flow, for the time of a trial."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from feature_repo import files
from flows import backfill, pipeline
from flows.log import epoch_files
from flows.online import plain_sink, sink
from flows.sources import redis_streams
from flows.window_state import checkpoints, partition
from tests.sim.bus import Reads, Streams
from tests.sim.disk import Writer
from tests.sim.graph import Graph, Operators
from tests.sim.store import Client, Server
from tests.sim.traffic import START_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock:
    """Stands for the module `time` and for the class `datetime`; it goes on when it is told to."""

    min = datetime.min.replace(tzinfo=UTC)

    def __init__(self) -> None:
        self.us = START_US + 7_200_000_000

    def now(self, zone: tzinfo | None = None) -> datetime:
        del zone
        return _EPOCH + timedelta(microseconds=self.us)

    def time(self) -> float:
        return self.us / 1e6

    monotonic = perf_counter = time

    def time_ns(self) -> int:
        return self.us * 1000

    def sleep(self, seconds: float) -> None:
        self.us += int(seconds * 1e6)


class World:
    """What outlives a crash: the bus, the store, and time."""

    def __init__(self, draw: Random) -> None:
        self.clock = Clock()
        self.bus = Streams(lambda: self.clock.us)
        self.store = Server(draw)
        self.writer = Writer()
        self.worker = 0
        self._written = 0

    def crash(self) -> None:
        """All processes of the flow die."""
        self.store.crash_of_clients()
        self.writer = Writer()

    def _sync(self, path: Path) -> None:
        """Give a file a later time than every file written before.

        The flow tells a file from an earlier one of the same name by its time.
        """
        descriptor = os.open(path, os.O_RDONLY)  # a crash may come before
        os.close(descriptor)
        self._written += 1
        os.utime(path, ns=(self._written, self._written))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put into the place of the real ones."""
        quiet = structlog.make_filtering_bound_logger(50)
        logging = structlog.get_config()
        with ExitStack() as places:
            put = lambda where, name, what: places.enter_context(patch.object(where, name, what))  # noqa: E731
            for module in [m for n, m in sys.modules.items() if n.startswith("flows.")]:
                if getattr(module, "time", None) is time:
                    put(module, "time", self.clock)
            put(redis_streams, "datetime", self.clock)
            put(redis_streams, "BusReads", lambda _: Reads(self.bus))
            put(redis_streams, "get_ident", lambda: self.worker)
            put(sink, "get_ident", lambda: self.worker)
            for module in (pipeline, plain_sink, backfill):
                put(module, "connect", lambda _: Client(self.store))
            for module in (
                pipeline,
                plain_sink,
            ):  # this store loses nothing; real ones do in tests.soak.redis_older
                put(module, "RollbackDetector", lambda *_: None)
            put(pipeline, "op", Operators)
            put(pipeline, "Dataflow", Graph)
            put(epoch_files, "sync", self._sync)
            put(files, "sync", self._sync)
            put(checkpoints, "_writer", self)
            put(checkpoints, "_waiting", checkpoints._Waiting())
            put(partition, "_logged", set())
            structlog.configure(wrapper_class=quiet)
            places.enter_context(_one_thread())
            try:
                yield
            finally:
                structlog.configure(**logging)

    def submit(self, *work: Any) -> Any:
        """The executor of checkpoints, of the present life."""
        return self.writer.submit(*work)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Arrow hands work of microseconds to threads."""
    cpus, ios = pa.cpu_count(), pa.io_thread_count()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with patch.object(pq, "read_table", partial(pq.read_table, use_threads=False)):
        try:
            yield
        finally:
            pa.set_cpu_count(cpus)
            pa.set_io_thread_count(ios)
