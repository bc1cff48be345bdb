"""How the cost of a streamed event grows with the size of a block and the number of keys, aggregations and views.

Decode, check, admit, cut, fold and pack run in one process without bus, Redis and files, so only the growing part is
measured.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from bench import w1, w1_stream
from bench.harness import RESULTS, console
from feature_repo.stores.applied_views import AppliedViews
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.windows.spec import Aggregate, ViewSpec
from flows.accept.admit import Admission
from flows.accept.stages import Acceptance
from flows.blocks import Payloads, RawBlock
from flows.settings import FlowSettings
from flows.window_state.partition import KeyedStates, StatesContext
from flows.window_state.replay import LogReplay
from flows.window_state.route import Router

FOLDER: Final = RESULTS / "growth"
EVENTS: Final = 65_536
BLOCK: Final = 4_096
TURNS: Final = 200
"""A small block is measured over so many, a large one over all events."""


def cost(rows: pa.Table, specs: tuple[ViewSpec, ...], block: int, events: int) -> float:
    """CPU microseconds per event of the second half; the first half fills the states."""
    applied = AppliedViews(w1_stream.PROJECT, {w1_stream.NAME: specs})
    payloads = w1_stream.as_json(rows.slice(0, events))
    blocks = []
    for first in range(0, events, block):
        some = payloads[first : first + block]
        places = np.arange(first, first + len(some))
        blocks.append(RawBlock("bus:w1:0", -1, places, places + 1_793_491_200_000_000, Payloads.of(some)))
    with tempfile.TemporaryDirectory() as folder:
        settings = FlowSettings(home=Path(folder), pseudonym_key="off", max_future_skew_seconds=1e9)
        stream, entities = w1_stream.STREAM, applied.entities(w1_stream.NAME)
        accept = Acceptance(stream, settings)
        admit = Admission(stream, settings, "bus", None)
        router = Router(entities, settings.key_shards)
        context = StatesContext(
            stream, settings, entities, LogReplay(stream, settings, entities), frozenset(), "bus"
        )
        writers = {
            entity: EntityProjection(None, applied.project, found) for entity, found in entities.items()
        }
        parts: dict[str, KeyedStates] = {}

        def fold(raw: RawBlock) -> None:
            (events,), _ = admit.on_batch(accept.accept_blocks([raw]))
            slices: dict[str, list[Any]] = defaultdict(list)
            for key, piece in router([events]):
                slices[key].append(piece)
            for key, pieces in slices.items():
                if key not in parts:
                    parts[key] = KeyedStates(context, pieces[0].rows.entity, pieces[0].rows.shard)
                keyed = parts[key]
                keyed.fold(pieces)
                writers[keyed.entity].calls(keyed.index, keyed.states, keyed.dirty.take())

        half = len(blocks) // 2
        for raw in blocks[:half]:
            fold(raw)
        began = time.process_time()
        for raw in blocks[half:]:
            fold(raw)
        return (time.process_time() - began) / (events - half * block) * 1e6


def aggregates(n: int) -> tuple[Aggregate, ...]:
    """Sums, means and maxima over `n` windows of 1, 2, 3 ... minutes."""
    functions = ("sum", "mean", "max", "count")
    return tuple(
        Aggregate(f"amount_{i}", functions[i % 4], "amount", (1 + i // 4) * 60 * w1.SECOND) for i in range(n)
    )


def view(name: str, n: int) -> ViewSpec:
    """An exact view of an account with `n` aggregations."""
    return ViewSpec(name, ("account_id",), 0, 64, w1.LATENESS_US, aggregates(n))


def main() -> None:
    """Measure and write the points."""
    both = (w1.account_view(), w1.merchant_view())
    rows = w1.payments(EVENTS)
    cost(rows, both, BLOCK, 2 * BLOCK)  # compiles
    write(
        "stream_block_size",
        "Cost of an event by the size of its block (W1)",
        "events in a block",
        {
            "us of CPU": [
                [n, cost(rows, both, n, min(EVENTS, n * TURNS))]
                for n in (1, 4, 16, 64, 256, 1024, 4096, 16384)
            ]
        },
    )
    write(
        "stream_keys",
        "Cost of an event by the number of accounts (W1)",
        "accounts",
        {
            "us of CPU": [
                [n, cost(w1.payments(EVENTS, accounts=n), both, BLOCK, EVENTS)]
                for n in (100, 1_000, 10_000, 100_000, 1_000_000)
            ]
        },
    )
    write(
        "stream_aggregations",
        "Cost of an event by the number of aggregations of a view",
        "aggregations",
        {"us of CPU": [[n, cost(rows, (view("a", n),), BLOCK, EVENTS)] for n in (1, 5, 10, 20, 40, 80)]},
    )
    write(
        "stream_views",
        "Cost of an event by the number of views of an entity",
        "views",
        {
            "us of CPU": [
                [n, cost(rows, tuple(view(f"v{i}", 4) for i in range(n)), BLOCK, EVENTS)]
                for n in (1, 2, 4, 8, 16)
            ]
        },
    )


def write(name: str, title: str, x_label: str, series: dict[str, list[list[float]]]) -> None:
    """One file of points."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = {"title": title, "x_label": x_label, "y_label": "us of CPU per event", "series": series}
    (FOLDER / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")
    points = ", ".join(f"{x:,.0f}: {y:.2f}" for x, y in next(iter(series.values())))
    console.print(f"{title}: {points}")


if __name__ == "__main__":
    main()
