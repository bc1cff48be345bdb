"""Workload W1 as JSON on the embedded bus, through the whole flow to Redis and a durable log: events per CPU-second.

Ours and the reference (`bench.w1_idiom`) are processes that read the same streams. A round keeps the payments under
another name, starts the process, waits until it is warm, and renames the streams. The time runs from there until the
last payment of every partition and shard is readable online (wall time) and all rows are durable in the log (CPU of
the flow process).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from bench import w1, w1_stream
from bench.harness import ROUNDS, CpuClock, Report, Target, console
from bench.stream_stages import measure
from feature_repo.settings import PROJECT_ROOT
from feature_repo.stores.redis_layout.keys import (
    decode_timestamp,
    key_prefix,
    key_values,
    state_field,
    time_field,
)
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.state import KeyIndex, ViewState
from flows.local.live import free_port
from flows.local.redis_server import EmbeddedServer
from flows.process import recovery
from flows.settings import FlowSettings

EVENTS = 300_000
REFERENCE_EVENTS = 30_000
STEPS_EVENTS = 131_072
BLOCK_EVENTS = 16_384
GIVE_UP_S = 120.0
SAMPLED_KEYS = 500
RECOVERY_PARTITIONS = 2


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
    parser.add_argument("--only", choices=["ours", "reference", "two"])
    given = parser.parse_args()
    runs: dict[str, list[Run]] = {"ours": [], "reference": [], "two": []}
    with (
        tempfile.TemporaryDirectory(prefix="bench") as folder,
        EmbeddedServer(Path(folder) / "server") as server,
    ):
        client = redis.Redis.from_url(server.url)
        rows = w1.payments(given.events)
        some = rows.slice(0, REFERENCE_EVENTS)
        w1_stream.fill(client, rows, "prepared")
        server_pid = int(client.info()["process_id"])
        for number in range(given.rounds):
            home = Path(folder) / f"round{number}"
            for name, made in runs.items():
                if given.only not in (None, name):
                    continue
                if name == "reference":
                    run, n = reference_round(client, server.url, server_pid, home, some), len(some)
                else:
                    workers = 2 if name == "two" else 1
                    run, n = our_round(client, server.url, server_pid, home / name, rows, workers), len(rows)
                made.append(run)
                console.print(
                    f"round {number}, {name}: {n / run.cpu:,.0f} events per CPU-second ({run.cpu / n * 1e6:.2f} us), "
                    f"wall {run.wall:.2f} s, server {run.server_cpu / n * 1e6:.2f} us an event"
                )
        steps = step_costs(client, server.url, Path(folder)) if given.only is None else {}
    if given.only is None:
        report(runs, len(rows), steps)


def report(runs: dict[str, list[Run]], events: int, steps: dict[str, float]) -> None:
    """Print and write the results."""
    ours = [events / run.cpu for run in runs["ours"]]
    idiom = [REFERENCE_EVENTS / run.cpu for run in runs["reference"]]
    server = {
        name: statistics.median(run.server_cpu for run in made) * 1e6 / n
        for (name, made), n in zip(runs.items(), (events, REFERENCE_EVENTS, events), strict=True)
    }
    made = Report("stream")
    made.add(
        "stream",
        ours,
        "events/CPU-s",
        Target("ratio", "at least", 10),
        reference="Bytewax idiom",
        references=idiom,
        note=f"CPU of the flow process; {events:,} events, the reference {REFERENCE_EVENTS:,} of them (its states, which it copies "
        f"every epoch, are small then). The server took {server['ours']:.1f} us an event, {server['reference']:.1f} us for the reference",
    )
    made.add(
        "stream_absolute",
        ours,
        "events/CPU-s",
        Target("figure", "at least", 100_000),
        note=f"us of CPU per event, each step alone, blocks of {BLOCK_EVENTS:,}: "
        + ", ".join(f"{step} {us:.2f}" for step, us in steps.items())
        + f"; {sum(steps.values()):.2f} in all",
    )
    made.add(
        "stream_2_workers",
        [events / run.wall for run in runs["two"]],
        "events/s (wall)",
        Target("ratio", "at least", 1.6),
        reference="1 worker",
        references=[events / run.wall for run in runs["ours"]],
        note=f"two processes beside the server on {os.cpu_count()} cores; CPU per event "
        f"{statistics.median(run.cpu for run in runs['two']) / events * 1e6:.1f} us against "
        f"{statistics.median(run.cpu for run in runs['ours']) / events * 1e6:.1f} us",
    )
    made.finish()


def step_costs(client: redis.Redis, url: str, folder: Path) -> dict[str, float]:
    """Microseconds of CPU per event of each step alone."""
    w1_stream.fill(client, w1.payments(STEPS_EVENTS), "millstream")
    costs: dict[str, float] = {}
    for number in range(3):
        found = measure(url, folder / f"steps{number}", BLOCK_EVENTS, STEPS_EVENTS)
        for step, seconds in found.seconds.items() if number else ():  # the first warms up
            costs[step] = min(costs.get(step, 1e9), seconds / STEPS_EVENTS * 1e6)
    return costs


def our_round(
    client: redis.Redis, url: str, server_pid: int, home: Path, rows: pa.Table, workers: int
) -> Run:
    """All payments through the flow, in one process or in several."""
    settings = FlowSettings(home=home, redis_url=url, pseudonym_key="off")
    home.mkdir(parents=True)
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

    with contextlib.ExitStack() as stack:
        started = [FlowProcess(command, environment) for command in commands(settings, workers)]
        processes = [stack.enter_context(process) for process in started]
        w1_stream.clear(client)
        run = timed_round(client, processes, server_pid, readable, logged)
        check_log(log, rows)
        check_online(client, rows)
    w1_stream.close_gate(client)
    return run


def commands(settings: FlowSettings, workers: int) -> list[list[str]]:
    """The commands that start the flow: like `flows.run` for one process, Bytewax's own command for a cluster."""
    if workers == 1:
        return [[sys.executable, "-m", "bench.w1_flow"]]
    folder = recovery.prepare(recovery.folder(settings, w1_stream.NAME, "bus"), RECOVERY_PARTITIONS)
    addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(workers))
    flow = [
        sys.executable,
        "-m",
        "bytewax.run",
        "bench.w1_module:flow",
        "-r",
        str(folder),
        "-s",
        "1",
        "-b",
        "0",
    ]
    return [[*flow, "-i", str(number), "-a", addresses] for number in range(workers)]


def flow_environment(home: Path, url: str) -> dict[str, str]:
    """The variables of a flow process of the benchmark."""
    return {
        **os.environ,
        "MILLSTREAM_HOME": str(home),
        "REDIS_URL": url,
        "MILLSTREAM_PSEUDONYM_KEY": "off",
        "MILLSTREAM_MAX_FUTURE_SKEW_SECONDS": "1e9",  # the month of W1 is a fixed one, whatever day it is
        "PYTHONPATH": str(PROJECT_ROOT),
    }


def reference_round(client: redis.Redis, url: str, server_pid: int, home: Path, rows: pa.Table) -> Run:
    folder = home / "idiom"
    folder.mkdir(parents=True)
    most = np.bincount(w1_stream.partition_of(rows), minlength=w1_stream.PARTITIONS)
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

    with FlowProcess(
        [sys.executable, "-m", "bench.w1_idiom", url, str(folder), *map(str, most)],
        {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    ) as process:
        run = timed_round(client, [process], server_pid, logged, counted)
    w1_stream.close_gate(client)
    return run


class FlowProcess:
    """A process that starts at once; entering the block waits for its line `ready`, leaving kills it."""

    def __init__(self, command: list[str], environment: dict[str, str] | None) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT_ROOT,
        )

    def __enter__(self) -> subprocess.Popen[str]:
        assert self._process.stdout is not None
        line = "-"
        while line and line.strip() != "ready":
            line = self._process.stdout.readline()
        if not line:
            msg = "the flow ended before it was ready"
            raise RuntimeError(msg)
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def timed_round(
    client: redis.Redis,
    processes: list[subprocess.Popen[str]],
    server_pid: int,
    readable: Callable[[], bool],
    logged: Callable[[], bool],
) -> Run:
    """Time from releasing the streams until everything is readable (wall) and durable (CPU)."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    time.sleep(0.5 if len(processes) == 1 else 2.0)  # the flow is built, a cluster has found itself
    cpu, server = CpuClock(*(process.pid for process in processes)), CpuClock(server_pid)
    began, cpu_before, server_before = time.perf_counter(), cpu(), server()
    w1_stream.open_gate(client)
    wait_for(readable, processes, 0.02)
    wall = time.perf_counter() - began
    wait_for(logged, processes, 0.1)
    return Run(wall, cpu() - cpu_before, server() - server_before)


def wait_for(reached: Callable[[], bool], processes: list[subprocess.Popen[str]], pause: float) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while not reached():
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("the flow ended before its time")
        if time.monotonic() > give_up:
            raise RuntimeError("it did not happen in time")
        time.sleep(pause)


def last_of_each(rows: pa.Table) -> list[tuple[bytes, bytes, int]]:
    """(Redis key, field, event time) of the last payment of each partition and shard, per entity."""
    found = []
    last = rows.slice(max(len(rows) - 20_000, 0))
    block = BlockColumns(last.combine_chunks())
    partition = w1_stream.partition_of(last)
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
