"""`online_read`: all features of the fraud service for a payment, against Feast's Redis store with as many plain ones.

Ours is the scorer's way: one pipelined round trip through its connection, then the compiled reader. One request at a
time, on one server; wall time of each. Before anything is timed, every vector is compared with the offline store's.

python -m bench.online_read [--rounds 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from bench.feast_plain import entity_row, fill, reference_store
from bench.harness import ROUNDS, Report, Target, console, percentile
from bench.home import Built, served
from feature_repo import privacy
from feature_repo.settings import RepoSettings
from feature_repo.stores.clock import to_us
from feature_repo.stores.reader.plan import Plan
from feature_repo.stores.reader.reader import Reader, Vector
from feature_repo.streams.payments import PAYMENTS
from serving.bootstrap import REPO
from serving.store.connection import StoreConnection
from serving.store.resp import ReadPacker

READS, REFERENCE_READS = 2_000, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with served() as (built, url), tempfile.TemporaryDirectory() as folder:
        uvloop.run(measure(built, url, Path(folder), rounds))


async def measure(built: Built, url: str, folder: Path, rounds: int) -> None:
    plan = Plan.load(built.artefact / "plan.json")
    reader, packer, connection = Reader(plan, REPO), ReadPacker(), StoreConnection(url, "bench")
    rows = payments(built)
    store = reference_store(folder, url)
    references = fill(store, plan, built, REFERENCE_READS)
    entity_rows = [entity_row(request) for request in built.requests[:REFERENCE_READS]]
    await connection.start()

    async def read(row: dict[str, Any], as_of_us: int) -> Vector:
        commands = reader.commands(row)
        replies = await connection.send(packer.pack(commands), len(commands), 1.0)
        return reader.vector(row, replies, as_of_us, as_of_us)

    differing = 0
    for (row, as_of_us), expected in zip(rows, built.expected, strict=True):
        differing += not np.array_equal((await read(row, as_of_us)).values, expected, equal_nan=True)
    assert not differing, f"{differing} of {len(rows)} vectors are not those of the offline store"
    names = [reference.split(":")[1] for reference in references]
    for entity, expected in zip(entity_rows[:1], np.nan_to_num(built.expected), strict=False):
        found = store.get_online_features(references, [entity]).to_dict()
        assert [found[name][0] for name in names] == expected.tolist(), "Feast does not read what was written"

    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    for number in range(rounds):
        mine = []
        for i in range(READS):
            row, as_of_us = rows[i % len(rows)]
            began = time.perf_counter()
            await read(row, as_of_us)
            mine.append((time.perf_counter() - began) * 1e3)
        other = []
        for entity in entity_rows:
            began = time.perf_counter()
            store.get_online_features(references, [entity]).to_dict()
            other.append((time.perf_counter() - began) * 1e3)
        ours.append([percentile(mine, q) for q in (50, 99)])
        theirs.append([percentile(other, q) for q in (50, 99)])
        console.print(
            f"round {number + 1}: p50 {ours[-1][0]:.3f} ms, p99 {ours[-1][1]:.3f}; Feast {theirs[-1][0]:.2f} and {theirs[-1][1]:.2f}"
        )
    await connection.stop()

    report = Report("online_read")
    views = len(plan.windowed) + len(plan.plain)
    for name, at in (("online_read", 0), ("online_read_p99", 1)):
        report.add(
            name,
            [one[at] for one in ours],
            f"ms {'p50' if at == 0 else 'p99'}",
            Target("ratio", "at least", 8.0),
            reference="Feast get_online_features, Redis",
            references=[one[at] for one in theirs],
            less_is_better=True,
            note=f"{len(plan.columns)} features of {views} views; Feast: as many plain ones in as many views; {len(rows)} vectors equal the offline store's",
        )
    report.finish()


def payments(built: Built) -> list[tuple[dict[str, Any], int]]:
    """(row, as of) of every request, as the scorer hands them to the reader."""
    pseudonyms = privacy.of_settings(RepoSettings())
    made = []
    for request in built.requests:
        row = dict.fromkeys(PAYMENTS.schema.names) | request | {"payment_id": request["event_id"]}
        row |= {
            column: pseudonyms.of(row[column], privacy.domain_of(column, how))
            for column, how in PAYMENTS.personal.items()
        }
        row["event_timestamp"] = datetime.fromisoformat(request["event_timestamp"])
        made.append((row, to_us(row["event_timestamp"])))
    return made


if __name__ == "__main__":
    main()
