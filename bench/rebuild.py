"""Empty the online store and measure how fast the flow writes it again: keys per second of wall time.

The home is that of `bench.restart`: ten payments of each account, views of workload W1 (account, merchant). The store
is emptied in four ways: under the running flow, whose states are in memory, by a new empty server at the same address;
then by FLUSHALL, after which the server frees memory in the background; then while the flow is down, so that it reads
its checkpoints; and then without checkpoints, so that it folds the log. Keys are counted from the first one that is
back until every part reports that all are written. The bus is on the same server and empty at the time, so nothing but
the store is lost (`MILLSTREAM_BUS_GAP=accept`).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from bench import million, w1_stream
from bench.harness import console
from bench.restart import Flow
from feature_repo.stores.redis_layout.view_versions import KeptVersions, versions_key
from tests.kits.redis_server import BreakableServer, wipe

ROUNDS = 3


class Rebuild:
    """One flow, and the timing of its rebuilds."""

    def __init__(self, folder: Path, url: str, accounts: int) -> None:
        self.flow = Flow(folder, url, accounts)
        self.flow.environment["MILLSTREAM_BUS_GAP"] = "accept"

    def filled(self) -> bool:
        """Whether every part has reported that all its states are written."""
        kept = KeptVersions.of(self.flow.client.hkeys(versions_key(w1_stream.PROJECT)))  # type: ignore[arg-type]
        return all(kept.is_filled(spec) for spec in w1_stream.VIEWS.streams[w1_stream.NAME])

    def keys(self) -> int:
        """How many keys the server holds, including internal ones."""
        return int(self.flow.client.dbsize())  # type: ignore[arg-type]

    def timed(self, what: str, *, began: float) -> float:
        """Wait until all keys are written again; return keys per second."""
        flow = self.flow
        flow.wait(lambda: self.keys() > 1_000, 0.002)
        first, there = time.perf_counter(), self.keys()
        flow.wait(lambda: self.keys() >= flow.accounts and self.filled(), 0.005)
        done = time.perf_counter()
        rate = (self.keys() - there) / (done - first)
        console.print(
            f"{what}: first keys after {first - began:.2f} s, all {self.keys():,} after {done - began:.2f} s: {rate:,.0f} keys/s"
        )
        return rate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--accounts", type=int, default=million.ACCOUNTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, BreakableServer(Path(folder) / "server") as server:
        made = Rebuild(Path(folder), server.url, given.accounts)
        flow = made.flow
        try:
            flow.start()
            flow.wait(lambda: made.keys() >= flow.accounts and made.filled(), 0.1)
            flow.wait(lambda: len(flow.checkpoints()) == 2 * flow.settings.key_shards, 0.1)
            time.sleep(2.5)
            for _ in range(given.rounds):
                for flush, what in ((False, "new server"), (True, "FLUSHALL")):
                    wipe(server, flow.client, flush=flush)
                    made.timed(f"{what}, states in memory", began=time.perf_counter())
                    time.sleep(2.5)
            flow.kill()
            flow.client.flushall()
            began = time.perf_counter()
            flow.launch()
            made.timed("states in checkpoints", began=began)
            time.sleep(2.5)
            flow.kill()
            flow.client.flushall()
            shutil.rmtree(flow.settings.checkpoints)
            began = time.perf_counter()
            flow.launch()
            made.timed("log alone", began=began)
        finally:
            flow.kill()


if __name__ == "__main__":
    main()
