"""States into the online store: rows per second of one client, against Feast's `push` to its own Redis store.

A row is one account with the 19 features of workload W1. Ours writes the packed state (every event of the 30 days that
a later read may need) with compare-and-set on its version; Feast writes the 19 finished values. Before each of our
rounds one more payment per account is folded (not timed), so that every row is newer than the stored one. The time
runs from the states in memory, or the data frame, to the last acknowledgement of the server.

Before anything is reported, every state is read back and compared byte for byte, every pushed row value for value, and
the features computed from our bytes with the values that Feast returns.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import redis

from bench import w1
from bench.harness import ROUNDS, CpuClock, Report, Target, console, percentile, timed
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.stores.redis_layout.keys import key_prefix, state_field, time_field
from feature_repo.windows.arrays import Ints
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.read import read_state
from feature_repo.windows.spec import INTEGER_FUNCTIONS, ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.local.redis_server import EmbeddedServer

PROJECT = "bench"
PUSHED = 5_000
SMALL = 4
SMALL_FLUSHES = 2_000


class Ours:
    """The states of W1's accounts, and the writer of them."""

    def __init__(self, url: str) -> None:
        self.spec: ViewSpec = w1.account_view()
        self.client = redis.Redis.from_url(url)
        self.index, self.state = KeyIndex(), ViewState(self.spec)
        self.payments = w1.payments()
        self._fold(self.payments)
        self.slots = np.arange(len(self.index))
        self.writer = EntityProjection(self.client, PROJECT, (self.spec,))
        self._one_each = self.payments.take(_first_of_each(self.payments["account_id"]))

    def one_more_each(self, number: int) -> None:
        """A payment more for every account, `number` seconds after the month."""
        n = self._one_each.num_rows
        times = w1.START_US + w1.SPAN_US + number * w1.SECOND + np.arange(n)
        ids = pa.array([f"q{number:03d}{i:08d}" for i in range(n)])
        more = self._one_each.set_column(0, "event_id", ids)
        self._fold(more.set_column(1, "event_timestamp", pa.array(times).cast(pa.timestamp("us", tz="UTC"))))

    def write(self, slots: Ints) -> int:
        return int(self.writer.write(self.index, [self.state], slots))

    def key(self, slot: int) -> bytes:
        return key_prefix(self.spec.join_keys) + self.index.name(slot) + PROJECT.encode()

    def check(self) -> None:
        """Every state that stands there is the one in memory, its expiry and time field with it."""
        blob, at = self.state.pack(self.slots)
        whole, bounds = blob.tobytes(), at.tolist()
        fields = [state_field(self.spec), time_field(self.spec.name)]
        for start in range(0, len(self.slots), 5_000):
            some = self.slots[start : start + 5_000].tolist()
            with self.client.pipeline(transaction=False) as pipe:
                for slot in some:
                    pipe.hmget(self.key(slot), fields)
                stored: list[list[bytes]] = pipe.execute()
            for slot, (state, time) in zip(some, stored, strict=True):
                if state != whole[bounds[slot] : bounds[slot + 1]] or not time:
                    raise AssertionError(f"the state of {self.index.name(slot)!r} is not what was written")
        if not 0 < self.client.ttl(self.key(0)) <= self.spec.lifetime_us // 1_000_000 + 2:  # type: ignore[operator]
            raise AssertionError("a key does not expire with its longest window")

    def features(self, slot: int, as_of_us: int) -> npt.NDArray[np.float64]:
        """The features of an account, finished from the bytes in the store."""
        state: bytes = self.client.hget(self.key(slot), state_field(self.spec))  # type: ignore[assignment]
        return read_state(state, self.spec, as_of_us, 0)[0]

    def _fold(self, rows: pa.Table) -> None:
        block = BlockColumns(rows.combine_chunks())
        self.state.fold(self.index.slots(block.keys(self.spec.join_keys)), block.events(self.spec))


class Feast:
    """Feast's own Redis store with the same features as plain ones, and `store.push` into it."""

    def __init__(self, folder: Path, url: str, spec: ViewSpec) -> None:
        from feast import (
            Entity,
            FeatureStore,
            FeatureView,
            Field,
            FileSource,
            PushSource,
            RepoConfig,
            ValueType,
        )
        from feast.types import Float64, Int64

        self.names = list(spec.feature_names)
        self.integers = [a.name for a in spec.aggregates if a.function in INTEGER_FUNCTIONS]
        path = folder / "rows.parquet"
        self.frame(["a"], np.ones((1, len(self.names)))).to_parquet(path)
        self.store = FeatureStore(
            config=RepoConfig(
                project="reference",
                provider="local",
                registry=str(folder / "registry.db"),
                online_store={
                    "type": "redis",
                    "connection_string": url.removeprefix("redis://").split("/")[0],
                },
                entity_key_serialization_version=3,
            )
        )
        account = Entity(name="account", join_keys=["account_id"], value_type=ValueType.STRING)
        source = PushSource(
            name="rows", batch_source=FileSource(path=str(path), timestamp_field="event_timestamp")
        )
        schema = [Field(name=n, dtype=Int64 if n in self.integers else Float64) for n in self.names]
        view = FeatureView(
            name="accounts", entities=[account], schema=schema, source=source, ttl=timedelta(days=90)
        )
        self.store.apply([account, source, view])

    def frame(self, accounts: list[str], values: npt.NDArray[np.float64], second: int = 0) -> pd.DataFrame:
        made = pd.DataFrame(values, columns=self.names)
        for name in self.integers:
            made[name] = made[name].astype("int64")
        made.insert(0, "account_id", accounts)
        made["event_timestamp"] = datetime(2026, 12, 2, tzinfo=UTC) + timedelta(seconds=second)
        return made

    def push(self, frame: pd.DataFrame) -> None:
        from feast.data_source import PushMode

        self.store.push("rows", frame, to=PushMode.ONLINE)

    def read(self, accounts: list[str]) -> npt.NDArray[np.float64]:
        got = self.store.get_online_features(
            features=[f"accounts:{n}" for n in self.names],
            entity_rows=[{"account_id": a} for a in accounts],
        ).to_dict()
        return np.array([[np.nan if v is None else float(v) for v in got[n]] for n in self.names]).T


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "server") as server:
        ours = Ours(server.url)
        feast = Feast(Path(folder), server.url, ours.spec)
        report(ours, feast, rounds, CpuClock(_server_pid(ours.client)))


def report(ours: Ours, feast: Feast, rounds: int, server: CpuClock) -> None:
    as_of = w1.START_US + w1.SPAN_US
    accounts = [ours.index.name(s)[8:].decode() for s in range(PUSHED)]
    ours.write(ours.slots)
    values = np.array([ours.features(s, as_of) for s in range(PUSHED)])
    feast.push(feast.frame(accounts[:100], values[:100]))
    wall: list[float] = []
    pushed: list[float] = []
    cpu, pushed_cpu, small = [], [], []
    server_us = 0.0
    for i in range(1, rounds + 1):
        ours.one_more_each(i)
        spent = server()
        with timed() as span:
            written = ours.write(ours.slots)
        spent = server() - spent
        if written != len(ours.slots):
            raise AssertionError(f"{written} of {len(ours.slots)} states were written")
        frame = feast.frame(accounts, values, i)
        with timed() as theirs:
            feast.push(frame)
        wall.append(len(ours.slots) / span.wall)
        pushed.append(PUSHED / theirs.wall)
        cpu.append(len(ours.slots) / span.cpu)
        pushed_cpu.append(PUSHED / theirs.cpu)
        server_us = spent / len(ours.slots) * 1e6
        console.print(
            f"round {i}: {wall[-1]:,.0f} rows/s (server {server_us:.2f} us a row), Feast push {pushed[-1]:,.0f} rows/s"
        )
    ours.check()
    if not np.array_equal(feast.read(accounts[:500]), values[:500], equal_nan=True):
        raise AssertionError("Feast does not return what was pushed")
    small = small_flushes(ours, rounds)
    size = len(ours.state.pack(ours.slots)[0]) / len(ours.slots)
    made = Report("online_write")
    what = "Feast store.push to its own Redis store, 19 features a row"
    made.add(
        "online_write",
        wall,
        "rows/s",
        Target("ratio", "at least", 20),
        reference=what,
        references=pushed,
        note=f"one client, wall; {len(ours.slots):,} states of {size:,.0f} bytes a flush; server {server_us:.1f} us CPU a row; pushes of {PUSHED:,} rows",
    )
    made.add(
        "online_write_cpu",
        cpu,
        "rows/CPU-s",
        Target("ratio", "at least", 20),
        reference=what,
        references=pushed_cpu,
        note="CPU of the client",
    )
    made.add(
        "online_write_small",
        small,
        "us",
        Target("figure", "at most", 300),
        less_is_better=True,
        note=f"a flush of {SMALL} keys, median of {SMALL_FLUSHES // rounds} one after the other",
    )
    made.finish()


def small_flushes(ours: Ours, rounds: int) -> list[float]:
    """Microseconds of a flush of a few keys, as a live payment causes it."""
    found = []
    for _ in range(rounds):
        times = []
        for first in range(0, SMALL_FLUSHES // rounds * SMALL, SMALL):
            with timed() as span:
                ours.write(ours.slots[first : first + SMALL])
            times.append(span.wall * 1e6)
        found.append(percentile(times, 50))
    return found


def _first_of_each(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    _, first = np.unique(column.to_numpy(zero_copy_only=False).astype(str), return_index=True)
    return first


def _server_pid(client: Any) -> int:
    return int(client.info("server")["process_id"])


if __name__ == "__main__":
    main()
