"""The memory of a flow's states: 1M active accounts with ten payments each, folded by the flow's parts in a process.

Measured is the resident memory that the process gained, at the end and at its peak, against the raw bytes of the
events (JSON as on the bus). The parts are those of a flow over the bus (`KeyedStates`, four shards, both views of
workload W1); events arrive in blocks and leave only states behind. Before a figure is reported, the states of some
accounts are compared with their events folded alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from bench import million, w1_stream
from bench.harness import Report, Target, console
from feature_repo.settings import PROJECT_ROOT
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.state import KeyIndex, ViewState
from flows.settings import FlowSettings
from flows.window_state.partition import KeyedStates, StatesContext
from flows.window_state.replay import LogReplay
from flows.window_state.slices import LiveSlice, Origin, cut

BLOCK = 25_000
SAMPLED = 50
ROUNDS_HERE = 2
"""What is counted is bytes, of seeded payments: rounds differ by a few pages. Each folds ten million payments."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS_HERE)
    parser.add_argument("--accounts", type=int, default=million.ACCOUNTS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(fold(given.accounts)))
        return
    gained, peaks, raw, packed = [], [], 0, 0
    for number in range(given.rounds):
        command = [sys.executable, "-m", "bench.memory", "--child", "--accounts", str(given.accounts)]
        done = subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        gained.append(found["gained"] / 1e6)
        peaks.append(found["peak"] / 1e6)
        raw, packed = found["raw"], found["columns"]
        console.print(
            f"round {number}: {gained[-1]:,.0f} MB, peak {peaks[-1]:,.0f} MB, of {raw / 1e6:,.0f} MB of JSON"
        )
    made = Report("memory")
    reference = "raw bytes of the events, JSON as on the bus"
    made.add(
        "memory",
        [g * 1e6 / raw for g in gained],
        "x of the raw bytes",
        Target("figure", "at most", 3),
        reference=reference,
        references=[1.0] * given.rounds,
        less_is_better=True,
        note=f"{np.median(gained):,.0f} MB resident for {given.accounts:,} accounts x {million.EACH} payments, {raw / 1e6:,.0f} MB of JSON;"
        f" {np.median(gained) * 1e6 / packed:.2f}x of the {packed / 1e6:,.0f} MB the same columns take in Arrow",
    )
    made.add(
        "memory_peak",
        [p * 1e6 / raw for p in peaks],
        "x of the raw bytes",
        Target("figure", "at most", 3),
        reference=reference,
        references=[1.0] * given.rounds,
        less_is_better=True,
        note="the most it had at any time, blocks and growing arrays included",
    )
    made.finish()


def fold(accounts: int) -> dict[str, int]:
    """In a process of its own: bytes gained, at the end and at the peak, and the bytes of the events."""
    w1_stream.register()
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        settings = FlowSettings(home=Path(folder), pseudonym_key="off")
        entities = w1_stream.VIEWS.entities(w1_stream.NAME)
        context = StatesContext(
            stream=w1_stream.STREAM,
            settings=settings,
            entities=entities,
            replay=LogReplay(w1_stream.STREAM, settings, entities),
            own_partitions=frozenset(),
            run="bus",
        )
        fold_into(new_parts(context), million.payments(2_000, 1))  # everything compiled and loaded
        parts = new_parts(context)
        pa.default_memory_pool().release_unused()
        before = process.memory_info().rss
        raw, columns, sample = fold_into(parts, million.payments(accounts))
        pa.default_memory_pool().release_unused()
        gained = process.memory_info().rss - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        check(parts, sample)
    return {"gained": gained, "peak": peak, "raw": raw, "columns": columns}


Parts = dict[tuple[tuple[str, ...], int], KeyedStates]


def new_parts(context: StatesContext) -> Parts:
    return {
        (entity, shard): KeyedStates(context, entity, shard)
        for entity in context.entities
        for shard in range(context.settings.key_shards)
    }


def fold_into(parts: Parts, payments: object) -> tuple[int, int, pa.Table]:
    """Fold payments in blocks, as the router sends them; return their bytes as JSON, as Arrow, and of a sample."""
    raw = columns = offset = 0
    wanted = million.names_of("a", np.arange(SAMPLED) * 7 + 1, 7)
    sample = []
    entities = {entity: parts[entity, 0].specs for entity, _ in parts}
    for some in payments:  # type: ignore[attr-defined]
        raw += len(w1_stream.as_json(some.slice(0, 1))[0]) * len(
            some
        )  # of one length but for a digit of the amount
        columns += some.nbytes
        sample.append(some.filter(pc.is_in(some["account_id"], value_set=wanted)))
        for first in range(0, len(some), BLOCK):
            rows = million.with_log_columns(some.slice(first, BLOCK), offset).combine_chunks()
            offset += len(rows)
            origin = Origin(million.PARTITION, -1, offset - 1)
            for piece in cut(rows, entities, 4):
                states = parts[piece.entity, piece.shard]
                states.fold([LiveSlice(piece, (origin,))])
                states.dirty.take()
    return raw, columns, pa.concat_tables(sample)


def check(parts: Parts, sample: pa.Table) -> None:
    """The states of the sampled accounts are those of their payments folded alone."""
    block = BlockColumns(sample.combine_chunks())
    keys = block.keys(("account_id",))
    shards = keys.shards(4)
    if len(sample) != SAMPLED * million.EACH:
        raise AssertionError("payments are missing")
    for shard in np.unique(shards).tolist():
        states = parts[("account_id",), shard]
        spec = states.specs[0]
        mine = sample.filter(pa.array(shards == shard)).combine_chunks()
        alone = BlockColumns(mine)
        index, state = KeyIndex(), ViewState(spec)
        state.fold(index.slots(alone.keys(("account_id",))), alone.events(spec))
        expected, _ = state.pack(np.arange(len(index)))
        found, _ = states.states[0].pack(states.index.slots(index.export()))
        if not np.array_equal(expected, found):
            raise AssertionError("a state is not that of its payments")


if __name__ == "__main__":
    main()
