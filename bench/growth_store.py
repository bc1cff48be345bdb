"""How the cost of keeping states grows with the number of keys, the events per key and the number of views.

Writes `results/growth/`: CPU microseconds per key written to the online store (client and server), and the seconds and
bytes to read back a checkpoint of so many keys, which a restart does per key.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import redis

from bench import w1
from bench.harness import RESULTS, CpuClock, console
from bench.w1 import _names as names_of
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.windows.arrays import Ints
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.local.redis_server import EmbeddedServer
from flows.window_state.checkpoints import CheckpointFolder

KEYS = (2_000, 8_000, 32_000, 128_000)
EVENTS = (1, 4, 16, 64, 256)
VIEWS = (1, 2, 4, 8)
RESTORED = (1_000, 10_000, 100_000, 400_000)
WRITTEN = 4_000
ROWS = 16_000
"""Written for each point: the clock ticks in hundredths of a second."""


class Kept:
    """States of a number of keys, with a number of events each, in a number of views."""

    def __init__(self, keys: int, events: int, views: int = 1) -> None:
        base = w1.account_view()
        self.specs: tuple[ViewSpec, ...] = tuple(replace(base, name=f"growth_{i}") for i in range(views))
        self.index = KeyIndex()
        self.states = [ViewState(spec) for spec in self.specs]
        self._keys, self._number = keys, 0
        for _ in range(events):
            self.one_more_each()

    def one_more_each(self) -> None:
        """Fold one more event for every key."""
        rows = w1.payments(self._keys, span_us=self._keys * 1_000_000, seed=self._number)
        names = names_of("a", np.arange(self._keys), 7)
        times = rows["event_timestamp"].cast("int64").to_numpy() + self._number * self._keys * 1_000_000
        rows = rows.set_column(2, "account_id", names)
        rows = rows.set_column(
            0, "event_id", names_of("p", np.arange(self._keys) + self._number * self._keys, 10)
        )
        block = BlockColumns(
            rows.set_column(
                1, "event_timestamp", pa.array(times).cast(pa.timestamp("us", tz="UTC"))
            ).combine_chunks()
        )
        slots = self.index.slots(block.keys(("account_id",)))
        for state in self.states:
            state.fold(slots, block.events(state.spec))
        self._number += 1


def write_cost(url: str, clock: CpuClock, keys: int, events: int, views: int) -> float:
    """CPU microseconds of client and server per key written; at most `WRITTEN` keys per flush."""
    client = redis.Redis.from_url(url)
    client.flushall()
    kept = Kept(keys, events, views)
    writer = EntityProjection(client, "growth", kept.specs)
    every: Ints = np.arange(keys)
    writer.write(kept.index, kept.states, every)
    draw = np.random.default_rng(0)
    spent, rows = 0.0, 0
    while rows < ROWS:
        kept.one_more_each()
        some = np.sort(draw.choice(keys, min(keys, WRITTEN), replace=False))
        before = clock()
        written = writer.write(kept.index, kept.states, some)
        spent, rows = spent + clock() - before, rows + written
        if written != len(some):
            raise AssertionError(f"{written} of {len(some)} keys were written")
    return spent / rows * 1e6


def restored(folder: Path, keys: int) -> tuple[float, float]:
    """CPU seconds to read back a checkpoint of so many keys with ten events each, and its bytes."""
    kept = Kept(keys, 10)
    part = CheckpointFolder(folder / str(keys), "account_id:00", "bus", 1)
    name = part.write(kept.index, kept.states, [{}], np.empty(0, np.int64))
    clock = CpuClock()
    before = clock()
    versions = [version_id(spec) for spec in kept.specs]
    read = part.read(name, versions)
    assert read is not None
    index, state = KeyIndex(), ViewState(kept.specs[0])
    saved = read.views[versions[0]]
    state.load(index.slots(read.keys), saved.blob, saved.at)
    taken = clock() - before
    if not np.array_equal(state.pack(np.arange(keys))[0], kept.states[0].pack(np.arange(keys))[0]):
        raise AssertionError("what was read back is not what was written")
    return taken, (folder / str(keys) / name).stat().st_size


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "server") as server:
        client = redis.Redis.from_url(server.url)
        info: Any = client.info("server")
        client.config_set(
            "auto-aof-rewrite-percentage", 0
        )  # no child of the server while a point is measured
        both = CpuClock(os.getpid(), int(info["process_id"]))
        write_cost(server.url, both, 500, 2, 1)  # compiled
        _save(
            "online_write_keys",
            "A key written online, by number of keys",
            "keys held",
            "us of CPU a key (client and server)",
            {"W1 account view, 4 events a key": [[k, write_cost(server.url, both, k, 4, 1)] for k in KEYS]},
        )
        _save(
            "online_write_events",
            "A key written online, by events per key",
            "events per key",
            "us of CPU a key (client and server)",
            {"W1 account view": [[n, write_cost(server.url, both, WRITTEN, n, 1)] for n in EVENTS]},
        )
        _save(
            "online_write_views",
            "A key written online, by number of views",
            "views of the entity",
            "us of CPU a key (client and server)",
            {
                "W1 account view, 4 events a key": [
                    [n, write_cost(server.url, both, WRITTEN, 4, n)] for n in VIEWS
                ]
            },
        )
        points = [(k, *restored(Path(folder), k)) for k in RESTORED]
        _save(
            "restart_keys",
            "Reading states back at a start, by number of keys",
            "keys",
            "CPU seconds",
            {"one view, 10 events a key": [[k, s] for k, s, _ in points]},
        )


def _save(cost: str, title: str, x_label: str, y_label: str, series: dict[str, list[list[float]]]) -> None:
    folder = RESULTS / "growth"
    folder.mkdir(parents=True, exist_ok=True)
    made = {"title": title, "x_label": x_label, "y_label": y_label, "series": series}
    (folder / f"{cost}.json").write_text(json.dumps(made, indent=1) + "\n")
    for label, points in series.items():
        console.print(f"{title} ({label}): " + ", ".join(f"{x:,g}: {y:.3g}" for x, y in points))


if __name__ == "__main__":
    main()
