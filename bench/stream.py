"""Workload W1 as JSON on the embedded bus, through the whole flow to Redis and a durable log: events per CPU-second.

Ours and the reference (`bench.w1_idiom`) are processes of their own that read the same streams. A round lays the payments
out under another name, starts the process, waits until it is warm, and renames the streams: the clock starts there, and stops when the
last payment of every partition and shard is readable on line (wall) and all rows are durable in the log (CPU of the flow process).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from bench import w1, w1_stream
from bench.harness import ROUNDS, CpuClock, Report, Target, console
from feature_repo.settings import PROJECT_ROOT
from feature_repo.stores.keys import decode_timestamp, key_prefix, key_values, state_field, time_field
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.state import KeyIndex, ViewState
from flows.settings import FlowSettings
from flows.stack import EmbeddedServer

EVENTS = 500_000
REFERENCE_EVENTS = 40_000
GIVE_UP_S = 120.0
SAMPLED_KEYS = 500


@dataclass(frozen=True)
class Run:
    """One round: seconds."""

    wall: float
    cpu: float
    server_cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--only", choices=["ours", "reference"])
    given = parser.parse_args()
    report = Report("stream")
    ours, theirs = [], []
    with (
        tempfile.TemporaryDirectory(prefix="bench") as folder,
        EmbeddedServer(Path(folder) / "server") as server,
    ):
        client = redis.Redis.from_url(server.url)
        rows = w1.payments(given.events)
        payloads = w1_stream.as_json(rows)
        w1_stream.fill(client, payloads, "prepared")
        server_pid = int(client.info()["process_id"])
        for number in range(given.rounds):
            home = Path(folder) / f"round{number}"
            if given.only != "reference":
                run = our_round(client, server.url, server_pid, home, rows)
                ours.append(len(rows) / run.cpu)
                console.print(
                    f"round {number}: ours {len(rows) / run.cpu:,.0f} events/CPU-s ({run.cpu / len(rows) * 1e6:.2f} us; wall {run.wall:.2f} s; server {run.server_cpu / len(rows) * 1e6:.2f} us)"
                )
            if given.only != "ours":
                run = reference_round(client, server.url, server_pid, home, rows.slice(0, REFERENCE_EVENTS))
                theirs.append(REFERENCE_EVENTS / run.cpu)
                console.print(
                    f"round {number}: idiom {REFERENCE_EVENTS / run.cpu:,.0f} events/CPU-s (wall {run.wall:.2f} s; server {run.server_cpu / REFERENCE_EVENTS * 1e6:.2f} us)"
                )


def our_round(client: redis.Redis, url: str, server_pid: int, home: Path, rows: pa.Table) -> Run:
    settings = FlowSettings(home=home, redis_url=url, pseudonym_key="off")
    home.mkdir()
    environment = flow_environment(home, url)
    log = settings.log_dir / w1_stream.NAME

    def logged() -> bool:
        return sum(pq.read_metadata(path).num_rows for path in log.glob("*.parquet")) >= len(rows)

    asked = last_of_each(rows)

    def readable() -> bool:
        with client.pipeline(transaction=False) as pipe:
            for key, field, _ in asked:
                pipe.hget(key, field)
            found = pipe.execute()
        return all(
            f is not None and decode_timestamp(f) >= at for f, (_, _, at) in zip(found, asked, strict=True)
        )

    with flow_process([sys.executable, "-m", "bench.w1_flow"], environment) as process:
        w1_stream.clear(client)
        run = timed_round(client, process, server_pid, readable, logged)
        check_log(log, rows)
        check_online(client, rows)
    w1_stream.close_gate(client)
    return run


def flow_environment(home: Path, url: str) -> dict[str, str]:
    """The variables of a flow process of the benchmark."""
    return {
        **os.environ,
        "MILLSTREAM_HOME": str(home),
        "REDIS_URL": url,
        "MILLSTREAM_PSEUDONYM_KEY": "off",
        "MILLSTREAM_AHEAD_SECONDS": "1e9",  # the month of W1 is a fixed one, whatever day it is
        "PYTHONPATH": str(PROJECT_ROOT),
    }


def reference_round(client: redis.Redis, url: str, server_pid: int, home: Path, rows: pa.Table) -> Run:
    folder = home / "idiom"
    folder.mkdir(parents=True)
    most = len(rows) // w1_stream.PARTITIONS
    path = folder / "log.jsonl"
    names = [f"account:{name}" for name in rows["account_id"].unique().to_pylist()]

    def counted() -> bool:
        """Every payment is in the features: before the last payment of an account there were all the others."""
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hget(name, "amount_count_30d")
            return sum(int(found) + 1 for found in pipe.execute() if found is not None) == len(rows)

    def logged() -> bool:
        return path.exists() and path.read_bytes().count(b"\n") >= len(rows)

    with flow_process(
        [sys.executable, "-m", "bench.w1_idiom", url, str(folder), str(most)],
        {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    ) as process:
        run = timed_round(client, process, server_pid, logged, counted)
    w1_stream.close_gate(client)
    return run


class flow_process:  # noqa: N801
    """A process that has said `ready`; it is killed at the end."""

    def __init__(self, command: list[str], environment: dict[str, str] | None) -> None:
        self._command, self._environment = command, environment

    def __enter__(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT_ROOT,
        )
        assert self._process.stdout is not None
        line = ""
        while line != "ready":
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError("the flow ended before it was ready")
            line = line.strip()
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def timed_round(
    client: redis.Redis,
    process: subprocess.Popen[str],
    server_pid: int,
    readable: Callable[[], bool],
    logged: Callable[[], bool],
) -> Run:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(0.5)
    cpu, server = CpuClock(process.pid), CpuClock(server_pid)
    began, cpu_before, server_before = time.perf_counter(), cpu(), server()
    w1_stream.open_gate(client)
    wait_for(readable, process, 0.02)
    wall = time.perf_counter() - began
    wait_for(logged, process, 0.1)
    return Run(wall, cpu() - cpu_before, server() - server_before)


def wait_for(reached: Callable[[], bool], process: subprocess.Popen[str], pause: float) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while not reached():
        if process.poll() is not None:
            raise RuntimeError("the flow ended before its time")
        if time.monotonic() > give_up:
            raise RuntimeError("it did not happen in time")
        time.sleep(pause)


def last_of_each(rows: pa.Table) -> list[tuple[bytes, bytes, int]]:
    """(Redis key, field, event time) of the last payment of each partition and shard, per entity."""
    found = []
    last = rows.slice(max(len(rows) - 20_000, 0))
    block = BlockColumns(last.combine_chunks())
    partition = (np.arange(len(last)) + len(rows) - len(last)) % w1_stream.PARTITIONS
    times = w1_stream.times_us(last)
    for spec in w1_stream.VIEWS.streams[w1_stream.NAME]:
        shards = block.keys(spec.join_keys).shards(4)
        for where in np.unique(np.stack([partition, shards]), axis=1).T:
            at = int(np.flatnonzero((partition == where[0]) & (shards == where[1]))[-1])
            name = last[spec.join_keys[0]][at].as_py()
            key = key_prefix(spec.join_keys) + key_values([name]) + w1_stream.PROJECT.encode()
            found.append((key, time_field(spec.name), int(times[at])))
    return found


def check_log(log: Path, rows: pa.Table) -> None:
    """Every payment stands in the log exactly once, under offsets that are all different."""
    found = pa.concat_tables([pq.read_table(p) for p in sorted(log.glob("*.parquet"))])
    assert sorted(found["event_id"].to_pylist()) == rows["event_id"].to_pylist(), (
        "the log is not the payments"
    )
    places = (
        found.select(["source_partition", "source_offset"])
        .group_by(["source_partition", "source_offset"])
        .aggregate([])
    )
    assert len(places) == len(rows), "offsets occur twice"


def check_online(client: redis.Redis, rows: pa.Table) -> None:
    """For a sample of keys, the hottest among them, the stored state is that of all payments folded at once."""
    draw = np.random.default_rng(0)
    for spec in w1_stream.VIEWS.streams[w1_stream.NAME]:
        column = rows[spec.join_keys[0]].combine_chunks()
        counted = column.value_counts()
        order = np.argsort(-counted.field("counts").to_numpy(), kind="stable")
        some = np.unique(
            np.concatenate(
                [order[:20], draw.choice(len(order), min(SAMPLED_KEYS, len(order)), replace=False)]
            )
        )
        names = counted.field("values").take(pa.array(some))
        mine = rows.filter(pa.compute.is_in(column, value_set=names)).combine_chunks()
        block = BlockColumns(mine)
        index, state = KeyIndex(), ViewState(spec)
        slots = index.slots(block.keys(spec.join_keys))
        state.fold(slots, block.events(spec))
        blob, at = state.pack(np.arange(len(index)))
        prefix = key_prefix(spec.join_keys)
        for slot in range(len(index)):
            key = prefix + index.name(slot) + w1_stream.PROJECT.encode()
            stored = client.hget(key, state_field(spec))
            assert stored == bytes(blob[at[slot] : at[slot + 1]]), f"another state of {key!r}"


if __name__ == "__main__":
    main()
