"""Whole lives of a payments flow in one process, crashed anywhere.

The steps, sources and sinks are the real ones, on a model of Bytewax. A trial publishes some dozens of payments, some
of them late, doubled, ahead of the clock or broken, and lets a cluster of one worker, two workers or two processes read
them. It crashes up to five times: between any two steps, snapshots or operations on a file, before or after an epoch
became durable; each start may have another shape. Every third trial begins with one view, fills the others by a
backfill at some moment, and starts the flow again some moments later, as it does by itself. At the end

- every accepted payment is in the log once, every other one is a dead letter once, for the reason an independent
  judge gives;
- the online store holds, byte for byte, what folding the log from nothing gives, for every key of it and no other;
- a derived column says what it would have said without any crash;
- no published file was changed, replaced or removed, and nothing was removed from the bus before it was safe.

How the model is made: `tests.sim`. One seed takes some tenths of a second.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from pydantic import SecretStr
from rich.progress import Progress

from feature_repo.enrichment.derived import Derived
from feature_repo.stores.applied_views import AppliedViews
from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.stores.redis_layout.view_versions import KeptVersions, versions_key
from feature_repo.streams.payments import ACCOUNT_DEVICE, ACCOUNT_PAYEE, PAYMENTS
from flows.backfill import Backfill, wanted_versions
from flows.pipeline import build
from flows.process import recovery
from flows.settings import FlowSettings
from flows.sources.redis_blocks import offset_of
from flows.window_state import rate_limit
from flows.window_state.folded_views import write_handover
from tests.kits.flow_output import dead_letter_rows, log_rows, states_from_log, states_online
from tests.kits.views import VIEWS, apply_views
from tests.sim.disk import Disk
from tests.sim.engine import Cluster, Recovery
from tests.sim.store import Client
from tests.sim.traffic import ACCEPTED, Published, Traffic
from tests.sim.world import World

TRIALS = 10_000
PARTITIONS = 2
PLAIN = replace(PAYMENTS, joins=(), joined=(), program=(), derived=())
DERIVING = replace(
    PAYMENTS,
    joins=(),
    program=tuple(
        step
        for step in PAYMENTS.program
        if step in (ACCOUNT_DEVICE, ACCOUNT_PAYEE)
        or (isinstance(step, Derived) and step.name in ("is_new_device", "is_new_payee"))
    ),
)
"""What follows from the account's own past; every fourth trial has it."""
FEWER = AppliedViews(VIEWS.project, {"payments": VIEWS.streams["payments"][1:2]})
NEW = (VIEWS.streams["payments"][0], VIEWS.streams["payments"][2])
"""A further view of an entity that is folded already, and one of another entity."""


class Crash(BaseException):
    """The power of the scheduler over the flow; no `except Exception` of ours may stop it."""


class Trial:
    """One seed."""

    def __init__(self, seed: int, home: Path) -> None:
        self.draw = draw = Random(seed)
        self.stream = DERIVING if seed % 4 == 0 else PLAIN
        self.settings = FlowSettings(
            home=home,
            redis_url="redis://simulated",
            pseudonym_key=SecretStr("off"),
            key_shards=2,
            bus_partitions=PARTITIONS,
            bus_retention=draw.choice(("all", "unread", "unread")),
            block_events=draw.choice((1, 4, 16)),
            epoch_events=draw.choice((2, 8, 1000)),
            checkpoint_seconds=draw.choice((1.0, 30.0, 3000.0)),
            checkpoint_events=draw.choice((3, 10, 1_000_000)),
        )
        self.world = World(draw)
        self.recovery = Recovery()
        self.traffic = Traffic(PARTITIONS, draw)
        self.to_publish = draw.randint(8, 40)
        self.published: dict[tuple[str, int], Published] = {}
        self.crashes_left = draw.choice((0, 1, 1, 2, 3, 5))
        self.crashes = 0
        self._countdown = 0
        self._read_at = 0
        self.to_backfill = seed % 3 == 1
        """Whether the flow begins with fewer views, and the others have not been filled yet."""
        self._folds_all = False

    def run(self) -> str:
        """All lives; raises `AssertionError` where the contract is broken."""
        apply_views(self.settings, FEWER if self.to_backfill else VIEWS)
        log = self.stream.log_folder(self.settings)
        letters = self.settings.dead_letters / self.stream.name
        with self.world.entered(), Disk(self.settings.home, (log, letters), self._point, self.draw) as disk:
            while True:
                self._countdown = int(self.draw.expovariate(1 / 250)) + 1 if self.crashes_left else 0
                try:
                    self._live()
                except Crash:
                    self.crashes += 1
                    self.crashes_left = max(self.crashes_left - 1, 0)
                    self._countdown = 0
                    self.world.crash()
                    self.recovery.crash()
                    disk.crash()
                    disk.look()
                    continue
                self._countdown = 0
                break
            disk.look()
        self._check()
        return f"{self.crashes} crashes, {len(self.published)} payments"

    def _live(self) -> None:
        self._read_at = 0
        self._folds_all = not self.to_backfill
        processes, workers = self.draw.choice(((1, 1), (1, 2), (2, 1)))
        graphs: list[Any] = []
        for process in range(processes):
            options = {"process_id": process} if processes > 1 else None
            with patch.object(recovery, "run_options", lambda options=options: options):
                graphs.append(build(self.stream, self.settings))
        cluster = Cluster(graphs, workers, self.recovery, self.draw, self._point, self._set_worker)
        cluster.live(self._is_done, self._outside)

    def _set_worker(self, worker: int) -> None:
        self.world.worker = worker

    def _point(self) -> None:
        """The process may die here."""
        self.world.clock.us += 50
        if self._countdown:
            self._countdown -= 1
            if not self._countdown:
                raise Crash

    def _outside(self) -> None:
        """Something that is no step of the flow."""
        what = self.draw.random()
        if self.to_backfill and what < 0.1:
            self._backfill()
        elif what < 0.5 and self.to_publish:
            for _ in range(min(self.draw.randint(1, 6), self.to_publish)):
                self._publish()
        elif what < 0.7:
            self.world.writer.work()
        elif what < 0.8:
            self.world.store.carry_out_some()
        else:
            self.world.clock.us += self.draw.choice((1_000, 100_000, 1_000_000, 1_000_000, 70_000_000))

    def _backfill(self) -> None:
        """Fill the new views from the log; the flow starts itself again soon after."""
        apply_views(self.settings)
        client = Client(self.world.store)
        kept = KeptVersions.of(client.hkeys(versions_key(VIEWS.project)))
        new = [spec.name for spec in NEW]
        for entity, specs in wanted_versions(VIEWS, "payments", kept, new).items():
            Backfill(self.stream, self.settings, VIEWS.project, entity, specs).run(Progress(disable=True))
        write_handover(self.settings, "payments", map(version_id, NEW))
        self.to_backfill = False
        soon = self.draw.randint(1, 300)
        self._countdown = min(self._countdown or soon, soon)

    def _publish(self) -> None:
        self.to_publish -= 1
        entry = self.traffic.next(self.world.clock.us)
        made = self.world.bus.add(f"millstream:payments:{entry.partition}", entry.payload)
        place = offset_of(f"{made[0]}-{made[1]}")
        self.published[f"bus:payments:{entry.partition}", place] = entry

    def _is_done(self, cluster: Cluster) -> bool:
        """All was read, some epochs ago."""
        parts = cluster.source_parts
        read = len(parts) == PARTITIONS and all(
            part._position is not None and part._position.last_id == self.world.bus.last_id(part.stream)
            for part in parts
        )
        if self.to_publish or not read or not self._folds_all:
            return False
        self._read_at = self._read_at or cluster.epoch
        return cluster.durable >= self._read_at + 3 and cluster.idle

    def _check(self) -> None:
        rows = log_rows(self.settings)
        found: list[tuple[tuple[str, int], str]] = []
        if rows.num_rows:
            places = zip(rows["source_partition"].to_pylist(), rows["source_offset"].to_pylist(), strict=True)
            found = [(place, ACCEPTED) for place in places]
        for letter in dead_letter_rows(self.settings):
            found.append(((letter["source_partition"], letter["source_offset"]), letter["reason"]))
        expected = sorted((place, entry.fate) for place, entry in self.published.items())
        assert sorted(found) == expected, (
            f"log and dead letters are wrong: {sorted(set(found) ^ set(expected))}"
        )
        online = states_online(_Reader(self.world.store.hashes))  # type: ignore[arg-type]
        if rows.num_rows:
            wanted = states_from_log(self.settings, _Reader({}))  # type: ignore[arg-type]
            wrong = sorted(key for key in online.keys() | wanted.keys() if online.get(key) != wanted.get(key))
            assert not wrong, f"the online store is not the fold of the log: {wrong}"
        if self.stream is DERIVING and rows.num_rows:
            for place, said in zip((p for p, _ in found), rows["is_new_payee"].to_pylist(), strict=False):
                assert said == self.published[place].new_payee, f"{place}: is_new_payee says {said}"


class _Reader:
    """A client that reads hashes, for the checks."""

    def __init__(self, hashes: dict[bytes, dict[bytes, bytes]]) -> None:
        self._hashes = hashes
        self.scan_iter = lambda: list(hashes)
        self.hgetall = hashes.__getitem__


@cache
def _folder() -> str | None:
    """A file system in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def trial(seed: int) -> str:
    """One seed; `TRIALS` of them in full."""
    home = Path(tempfile.mkdtemp(prefix="millstream-sim-", dir=_folder()))
    try:
        with patch.object(rate_limit, "LARGE_BYTES", 300):  # so that states wait for their turn here, too
            return Trial(seed, home).run()
    finally:
        shutil.rmtree(home, ignore_errors=True)
