"""Time from a payment's acceptance by the bus until it is readable online: 99th percentile in ms, at three rates.

The rates are 1,000, 10,000 and 50,000 payments a second. A producer process sends workload W1 (`bench.w1_producer`);
an account always goes to the same partition, and the busiest account has 14 % of all payments. For a sample of
payments the stored event time of their account is read every two milliseconds until it reaches the payment, less often
when many wait, so that reading never takes more than a quarter of a core. The accept time is in the payment's entry
id, the bus's clock cut to a millisecond. A figure is therefore up to a millisecond and one read too long, never too
short.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from bench import w1, w1_stream
from bench.harness import ROUNDS, CpuClock, Report, Target, console, percentile
from bench.stream import FlowProcess, flow_environment
from feature_repo.stores.redis_layout.keys import decode_timestamp, key_prefix, key_values, time_field
from flows.local.redis_server import EmbeddedServer

RATES = {1_000: 30.0, 10_000: 50.0, 50_000: 150.0}
"""Payments a second, and the target in milliseconds."""
SECONDS = 3.0
WARM_SECONDS = 1.0
SAMPLES_A_SECOND = 150
LOOK_EVERY_S = 0.002
GIVE_UP_S = 20.0


@dataclass
class Round:
    """One run: milliseconds per sampled payment, and the share of a core that the processes used."""

    milliseconds: list[float] = field(default_factory=list)
    flow: float = 0.0
    server: float = 0.0
    lag: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rates", type=int, nargs="+", default=list(RATES))
    given = parser.parse_args()
    runs = [(rate, int(rate * given.seconds)) for _ in range(given.rounds) for rate in given.rates]
    warm_up = int(given.rates[0] * WARM_SECONDS)
    rows = w1.payments(warm_up + sum(n for _, n in runs))
    found: dict[int, list[Round]] = {rate: [] for rate in given.rates}
    with (
        tempfile.TemporaryDirectory(prefix="bench") as name,
        EmbeddedServer(Path(name) / "server") as server,
    ):
        folder, url = Path(name), server.url
        client = redis.Redis.from_url(url)
        prepare(folder, rows)
        with (
            FlowProcess(
                [sys.executable, "-m", "bench.w1_flow"], flow_environment(folder / "home", url)
            ) as flow,
            FlowProcess([sys.executable, "-m", "bench.w1_producer", url, str(folder)], None) as producer,
        ):
            w1_stream.clear(client)
            assert flow.stdin is not None
            flow.stdin.write("\n")
            flow.stdin.flush()
            clocks = CpuClock(flow.pid), CpuClock(int(client.info()["process_id"]))
            one_run(client, producer, clocks, rows, 0, warm_up, given.rates[0])
            first = warm_up
            for rate, n in runs:
                run = one_run(client, producer, clocks, rows, first, first + n, rate)
                first += n
                found[rate].append(run)
                console.print(
                    f"{rate:>6,} a second: p50 {statistics.median(run.milliseconds):.1f}, p99 {percentile(run.milliseconds, 99):.1f} ms "
                    f"of {len(run.milliseconds)}; flow {run.flow:.0%} and server {run.server:.0%} of a core, producer at most {run.lag * 1e3:.0f} ms late"
                )
            check(folder / "home" / "log" / w1_stream.NAME, rows)
    report = Report("freshness")
    for rate, rounds in found.items():
        report.add(
            "freshness" if rate == 1_000 else f"freshness_{rate // 1000}k",
            [percentile(r.milliseconds, 99) for r in rounds],
            "ms (p99)",
            Target("figure", "at most", RATES.get(rate, 150.0)),
            note=f"{rate:,} payments a second; median {statistics.median(m for r in rounds for m in r.milliseconds):.1f} ms; "
            f"flow {statistics.median(r.flow for r in rounds):.0%}, server {statistics.median(r.server for r in rounds):.0%} of a core",
        )
    report.finish()


def one_run(
    client: redis.Redis,
    producer: subprocess.Popen[str],
    clocks: tuple[CpuClock, CpuClock],
    rows: pa.Table,
    first: int,
    last: int,
    rate: int,
) -> Round:
    """Send payments `first` to `last` (excluded) and watch a sample of them."""
    assert producer.stdin is not None
    assert producer.stdout is not None
    step = max(rate // SAMPLES_A_SECOND, 1)
    places = np.arange(first, last, step)
    prefix, project = key_prefix(["account_id"]), w1_stream.PROJECT.encode()
    names = rows["account_id"].take(pa.array(places)).to_pylist()
    keys = [prefix + key_values([name]) + project for name in names]
    times = w1_stream.times_us(rows)[places].tolist()
    name = time_field(w1_stream.VIEWS.streams[w1_stream.NAME][0].name)
    connection = client.connection_pool.get_connection()
    looks = [b"".join(connection.pack_command("HGET", key, name)) for key in keys]
    begin = time.time() + 0.3
    before = [clock() for clock in clocks]
    producer.stdin.write(f"{first} {last} {rate} {begin}\n")
    producer.stdin.flush()
    due = begin + (places - first) / rate
    seen = np.zeros(len(places))
    waiting: list[int] = []
    following = 0
    give_up = begin + (last - first) / rate + GIVE_UP_S
    while (waiting or following < len(places)) and time.time() < give_up:
        now = time.time()
        while following < len(places) and due[following] <= now:
            waiting.append(following)
            following += 1
        if waiting:
            connection.send_packed_command([b"".join(looks[i] for i in waiting)])
            answers = [connection.read_response() for _ in waiting]
            read = time.time()
            still = []
            for i, answer in zip(waiting, answers, strict=True):
                if answer is not None and decode_timestamp(answer) >= times[i]:
                    seen[i] = read
                else:
                    still.append(i)
            waiting = still
        time.sleep(max(LOOK_EVERY_S, 3 * (time.time() - now)))
    client.connection_pool.release(connection)
    assert not waiting, f"{len(waiting)} payments did not become readable"
    wall = time.time() - begin
    made = Round(lag=float(producer.stdout.readline()))
    made.flow, made.server = ((clock() - was) / wall for clock, was in zip(clocks, before, strict=True))
    accepted = accepted_at(client, rows, places, first, last)
    made.milliseconds = ((seen - accepted) * 1e3).tolist()
    return made


def accepted_at(client: redis.Redis, rows: pa.Table, places: np.ndarray, first: int, last: int) -> np.ndarray:
    """The accept times of some payments in seconds since 1970; the n-th payment of a partition is its n-th entry."""
    partitions = w1_stream.partition_of(rows)
    ids: dict[int, list[bytes]] = {}
    order = np.zeros(len(partitions), np.int64)
    for p in range(w1_stream.PARTITIONS):
        mine = partitions[:last] == p
        order[:last][mine] = np.arange(int(mine.sum()))
        in_run = int(mine[first:].sum())
        entries = client.execute_command("XREVRANGE", w1_stream.stream_name(p), "+", "-", "COUNT", in_run)
        ids[p] = [entry[0] for entry in entries][::-1]
        order[first:last][mine[first:]] -= int(mine[:first].sum())
    return np.array([int(ids[int(partitions[i])][int(order[i])].split(b"-")[0]) / 1e3 for i in places])


def prepare(folder: Path, rows: pa.Table) -> None:
    """Write the producer's commands."""
    (folder / "home").mkdir()
    partitions = w1_stream.partition_of(rows).tolist()
    names = [w1_stream.stream_name(p) for p in range(w1_stream.PARTITIONS)]
    commands = [
        w1_stream.packed([payload], names[p])
        for payload, p in zip(w1_stream.as_json(rows), partitions, strict=True)
    ]
    np.save(folder / "ends.npy", np.cumsum([len(command) for command in commands]))
    (folder / "commands").write_bytes(b"".join(commands))


def check(log: Path, rows: pa.Table) -> None:
    """Check that the durable log holds every payment once."""
    give_up = time.time() + GIVE_UP_S
    while time.time() < give_up:
        found = [pq.read_table(path, columns=["event_id"]) for path in sorted(log.glob("*.parquet"))]
        if found and sum(map(len, found)) >= len(rows):
            break
        time.sleep(0.2)
    ids = pa.concat_tables(found)["event_id"]
    assert len(ids) == len(rows), "rows of the log are not the payments"
    assert len(ids.unique()) == len(rows), "payments occur twice in the log"


if __name__ == "__main__":
    main()
