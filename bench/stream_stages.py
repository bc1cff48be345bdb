"""Workload W1, each step of the flow alone in one process: CPU microseconds per event.

These add up to the figure of `bench.stream` and are its lower limit: no flow is faster than its decoding, folding and
writing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from bench import w1, w1_stream
from bench.harness import console
from flows.accept.admit import Admission
from flows.accept.stages import Acceptance
from flows.local.redis_server import EmbeddedServer
from flows.log.epoch_files import Folders, StagedPart
from flows.online.sink import connect
from flows.online.writers import Projections
from flows.settings import FlowSettings
from flows.sources.redis_streams import BusPartition
from flows.window_state.partition import KeyedStates, StatesContext
from flows.window_state.replay import LogReplay
from flows.window_state.route import Router

EVENTS = 262_144
ROUNDS = 3


class Costs:
    """CPU seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[step] += time.process_time() - began


def measure(url: str, home: Path, block_events: int, events: int) -> Costs:
    """One pass over the bus, step by step, in blocks of a size: four partitions a turn, as the flow does."""
    settings = FlowSettings(
        home=home,
        redis_url=url,
        pseudonym_key="off",
        block_events=block_events,
        epoch_events=10**9,
        max_future_skew_seconds=1e9,
        linger_ms=0.5,
        epoch_ms=50,
    )
    stream, costs = w1_stream.STREAM, Costs()
    w1_stream.apply(settings)
    accept, box = Acceptance(stream, settings), None
    entities = w1_stream.VIEWS.entities(stream.name)
    states = StatesContext(
        stream, settings, entities, LogReplay(stream, settings, entities), frozenset(), "bus"
    )
    client = connect(settings)
    projections = Projections(client, w1_stream.PROJECT, settings.key_shards)
    router = Router(entities, settings.key_shards)
    partitions = [BusPartition(part, None, settings) for part in stream.bus_parts(settings.bus_partitions)]
    admissions = [Admission(stream, settings, "bus", None) for _ in partitions]
    log = StagedPart("bus", Folders(stream.name, home / "log", home / "staging"), stream.log_schema, None)
    parts: dict[str, KeyedStates] = {}
    done = 0
    since_epoch = 0
    while done < events:
        blocks = []
        for partition, admit in zip(partitions, admissions, strict=True):
            with costs("read the bus"):
                blocks += [(block, admit) for block in partition.next_batch()]
        slices: dict[str, list[Any]] = defaultdict(list)
        turn = []
        for block, admit in blocks:
            with costs("decode"):
                decoded = accept.decode(block)
            with costs("check"):
                checked = accept.normalize(accept.pseudonymise(accept.check(decoded)))
            with costs("admit"):
                (admitted,), _ = admit.on_batch([checked])
            with costs("log"):
                log.write_batch([admitted.rows.select(stream.log_schema.names)])
            turn.append(admitted)
            done += admitted.rows.num_rows
            since_epoch += admitted.rows.num_rows
        with costs("route"):
            for key, piece in router(turn):
                slices[key].append(piece)
        for key, pieces in slices.items():
            if key not in parts:
                parts[key] = KeyedStates(states, pieces[0].rows.entity, pieces[0].rows.shard)
            keyed = parts[key]
            with costs("fold"):
                keyed.fold(pieces)
            writer = projections.of(keyed.specs)
            with costs("pack the states"):
                rows = writer.calls(keyed.index, keyed.states, keyed.dirty.take())
            with costs("write them to Redis"):
                writer.send(rows)
        if since_epoch >= 150_000:
            since_epoch = 0
            with costs("log"):
                log.snapshot()
    with costs("log"):
        log.snapshot()
    for partition in partitions:
        partition.close()
    client.close()
    del box
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--block", type=int, nargs="+", default=[4096])
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench") as folder,
        EmbeddedServer(Path(folder) / "server") as server,
    ):
        client = redis.Redis.from_url(server.url)
        rows = w1.payments(given.events)
        w1_stream.fill(client, rows, "millstream")
        for block in given.block:
            measure(server.url, Path(folder) / f"warm{block}", block, min(4 * block, given.events))
            best: dict[str, float] = {}
            for number in range(given.rounds):
                for key in client.scan_iter(count=5000):
                    if not key.startswith(b"millstream"):
                        client.delete(key)
                costs = measure(server.url, Path(folder) / f"{block}-{number}", block, given.events)
                for step, seconds in costs.seconds.items():
                    best[step] = min(best.get(step, 1e9), seconds / given.events * 1e6)
            console.print(
                f"blocks of {block:,}: "
                + ", ".join(f"{s} {us:.2f}" for s, us in best.items())
                + f"; {sum(best.values()):.2f} us in all"
            )


if __name__ == "__main__":
    main()
