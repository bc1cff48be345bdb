"""Kill a flow of 1M active accounts with -9; measure its next start until a new event is in the online store.

The flow is the product's own, over the bus, with the views of workload W1 and compiled kernels. The log holds ten
payments of every account. The reference is the same start without a checkpoint, which folds the whole log; it runs
once at the beginning because it takes a minute. Between a checkpoint and each kill the flow folds payments that no
checkpoint covers, so a restart also reads the tail of the log. The time runs from the start of the process until a
payment, published before the start, is in the state of its account; that state must count every payment of the month
too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pyarrow as pa
import redis

from bench import million, w1, w1_stream
from bench.harness import ROUNDS, CpuClock, Report, Target, console
from feature_repo.settings import PROJECT_ROOT
from feature_repo.stores.redis_layout.keys import key_prefix, key_values, state_field
from flows.local.redis_server import EmbeddedServer
from flows.settings import FlowSettings

TAIL = 20_000
"""Payments folded between a checkpoint and a kill, at least."""
GIVE_UP_S = 300.0
_FLOW = "from bench import w1_stream; w1_stream.register(); from flows.run import app; app()"


class Flow:
    """A home with a long log, its bus, and its flow, which can be started and killed."""

    def __init__(self, folder: Path, url: str, accounts: int) -> None:
        self.client = redis.Redis.from_url(url)
        self.accounts = accounts
        self.settings = FlowSettings(home=folder / "home", redis_url=url, pseudonym_key="off")
        self.settings.home.mkdir()
        w1_stream.apply(self.settings)
        self.rows = million.write_log(self.settings.log_dir / w1_stream.NAME, accounts)
        self.view = w1.account_view()
        self._seen = dict.fromkeys(range(million_probes(accounts)), million.EACH)
        self._second = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "flow.log"
        self.environment = {
            **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
            "MILLSTREAM_HOME": str(self.settings.home),
            "REDIS_URL": url,
            "MILLSTREAM_PSEUDONYM_KEY": "off",
            "MILLSTREAM_MAX_FUTURE_SKEW_SECONDS": "1e9",
            "MILLSTREAM_CHECKPOINT_EVENTS": str(accounts),
            "PYTHONPATH": str(PROJECT_ROOT),
        }
        compiled = [sys.executable, "-c", "import bench.w1_stream, flows.run, flows.pipeline, pandas"]
        subprocess.run(compiled, env=self.environment, cwd=PROJECT_ROOT, check=True)

    def start(self) -> float:
        """Seconds from the start of the process until the first event is in the online store."""
        probe = int(np.random.default_rng(self._second).integers(0, len(self._seen)))
        self.publish(np.array([probe]))
        began = time.perf_counter()
        self.launch()
        self.wait(lambda: self.version(probe) >= self._seen[probe], 0.005)
        taken = time.perf_counter() - began
        if self.version(probe) != self._seen[probe]:
            raise AssertionError("the state counts another number of payments than there were")
        return taken

    def launch(self) -> None:
        """Start the process."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FLOW, w1_stream.NAME],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=self._log.open("ab"),
            cwd=PROJECT_ROOT,
        )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def cpu(self) -> float:
        """CPU seconds of the process so far."""
        assert self._process is not None
        return CpuClock(self._process.pid)()

    @property
    def rss(self) -> int:
        assert self._process is not None
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def publish(self, accounts: np.ndarray) -> None:
        """Publish one more payment for each of these accounts."""
        n = len(accounts)
        at = w1.START_US + w1.SPAN_US + (self._second * TAIL + np.arange(n)) * 1_000_000
        some = pa.table(
            {
                "event_id": [f"q{self._second:05d}{i:05d}" for i in range(n)],
                "event_timestamp": pa.array(at).cast(pa.timestamp("us", tz="UTC")),
                "account_id": million.names_of("a", accounts, 7),
                "merchant_id": pa.array(["m00001"] * n),
                "amount": np.full(n, 12.5),
            }
        )
        self._second += 1
        payloads = w1_stream.as_json(some)
        connection = self.client.connection_pool.get_connection()
        connection.send_packed_command([w1_stream.packed(payloads, w1_stream.stream_name(0))])
        for _ in payloads:
            connection.read_response()
        self.client.connection_pool.release(connection)
        for account in accounts.tolist():
            if account in self._seen:
                self._seen[account] += 1

    def fold_more(self) -> None:
        """The tail: payments after the checkpoint, online and durable in the log."""
        accounts = np.arange(TAIL) % self.accounts
        self.publish(accounts)
        last = int(accounts[-1])
        self._seen.setdefault(last, million.EACH + 1)
        self.wait(lambda: self.version(last) >= self._seen[last], 0.05)
        time.sleep(2.5)  # two epochs: what was folded is durable

    def version(self, account: int) -> int:
        """Payments counted in the stored state of an account."""
        name = million.names_of("a", np.array([account]), 7)[0].as_py()
        key = key_prefix(self.view.join_keys) + key_values([name]) + w1_stream.PROJECT.encode()
        state: bytes | None = self.client.hget(key, state_field(self.view))  # type: ignore[assignment]
        return int.from_bytes(state[24:32], "little") if state else 0

    def checkpoints(self) -> dict[str, int]:
        """Bytes of the newest checkpoint of each part."""
        folder = self.settings.checkpoints / w1_stream.NAME
        files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
        return {f.name.rsplit("-", 2)[0]: f.stat().st_size for f in files}

    def wait(self, reached: Callable[[], bool], pause: float) -> None:
        give_up = time.monotonic() + GIVE_UP_S
        while not reached():
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(f"the flow ended before its time: {self._log.read_text()[-2000:]}")
            if time.monotonic() > give_up:
                raise RuntimeError("it did not happen in time")
            time.sleep(pause)


def million_probes(accounts: int) -> int:
    """The number of accounts that are checked; their payments are counted here too."""
    return min(accounts, 1_000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--accounts", type=int, default=million.ACCOUNTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "server") as server:
        flow = Flow(Path(folder), server.url, given.accounts)
        try:
            measure(flow, given.rounds)
        finally:
            flow.kill()


def measure(flow: Flow, rounds: int) -> None:
    replay = flow.start()
    console.print(f"full replay of {flow.rows:,} rows: {replay:.1f} s; {flow.rss / 1e6:,.0f} MB resident")
    parts = 2 * flow.settings.key_shards  # accounts, merchants
    flow.wait(lambda: len(flow.checkpoints()) == parts, 0.1)
    size = sum(flow.checkpoints().values())
    taken, cpu = [], []
    for number in range(rounds):
        flow.fold_more()
        flow.kill()
        taken.append(flow.start())
        cpu.append(flow.cpu)
        console.print(f"round {number}: {taken[-1]:.2f} s ({cpu[-1]:.2f} s of CPU)")
    made = Report("restart")
    made.add(
        "restart",
        taken,
        "s",
        Target("figure", "at most", 10),
        reference="full replay of the log (measured once)",
        references=[replay] * rounds,
        less_is_better=True,
        note=f"{flow.accounts:,} accounts of {million.EACH} payments, views of W1 (account, merchant); {median(cpu):.1f} s of CPU; process start, imports and"
        f" {TAIL:,} log rows beyond the checkpoints ({size / 1e6:,.0f} MB) included; {flow.rss / 1e6:,.0f} MB resident",
    )
    made.finish()


if __name__ == "__main__":
    main()
