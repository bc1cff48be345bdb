"""`point_in_time_join`: 200,000 training rows of the full service over a log of a million payments, through Feast.

Ours computes every feature from the log, and the on-demand views on top. The reference is Feast's own duckdb store on
pre-computed features: one Parquet file per view, as many views and features, no time to live. (Its dask store did not
answer 100 rows within 100 s.) Each store runs in a process of its own, so that their memory is separate; a first small
join in each, which imports and compiles, is not timed. All answers of the reference are compared with ours.

Feast's duckdb store takes CPU minutes for a few thousand rows, because it joins a row to every earlier row of its key
before it picks the last. It is therefore timed on two small numbers of rows, and only the difference is scaled to the
rows in between: a straight line, in which the fixed cost (reading the files) counts once. Its memory is that of a
two-hundredth of the rows that ours joins.

python -m bench.point_in_time_join [--rounds 5]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from bench import join_home
from bench.harness import ROUNDS, Report, Target, console

ROWS: Final = 200_000
FEW, MORE = 100, join_home.COMPARED
FOR_MEMORY: Final = 1_000
"""Rows at which the reference's memory is taken: far fewer than ours, for it takes half a minute."""
KEYS: Final = ["account_id", "merchant_id", "payment_id", "event_timestamp"]


@dataclass
class Answer:
    """What one join took: CPU and wall seconds, and the peak of its process in MB so far."""

    cpu: float
    wall: float
    peak: float
    table: pa.Table | None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    join_home.prepared()
    report = Report("point_in_time_join")
    with Joiner("ours") as ours, Joiner("duckdb") as duckdb:
        measure(report, rounds, ours, duckdb)
        measure_memory(report, ours, duckdb)
    report.finish()


def measure(report: Report, rounds: int, ours: Joiner, duckdb: Joiner) -> None:
    for joiner in (ours, duckdb):
        joiner.join(FEW)
    expected = ours.join(MORE, answered=True).table
    compare(duckdb.join(MORE, answered=True).table, expected)
    mine: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        mine.append(ROWS / ours.join(ROWS).cpu)
        few, more = duckdb.join(FEW).cpu, duckdb.join(MORE).cpu
        each = max(more - few, 0.0) / (MORE - FEW)
        theirs.append(ROWS / (more + each * (ROWS - MORE)))
        console.print(f"round {number + 1}: {mine[-1]:,.0f} rows per CPU-second; duckdb {theirs[-1]:,.0f}")
    report.add(
        "point_in_time_join",
        mine,
        "rows/CPU-s",
        Target("ratio", "at least", 20),
        reference="Feast's duckdb store, features pre-computed",
        references=theirs,
        note=f"reference timed at {FEW} and {MORE} rows, scaled by their difference",
    )


def measure_memory(report: Report, ours: Joiner, duckdb: Joiner) -> None:
    """The most each process ever had, Feast imported; ours has made the large joins by now."""
    mine = ours.join(FEW).peak
    theirs = duckdb.join(FOR_MEMORY).peak
    report.add(
        "point_in_time_join_memory",
        [mine],
        "MB",
        Target("ratio", "at least", 1),
        reference="Feast's duckdb store",
        references=[theirs],
        less_is_better=True,
        note=f"peak of a process that makes such joins; ours of {ROWS:,} rows, the reference's of {FOR_MEMORY:,} only",
    )


def compare(found: pa.Table | None, expected: pa.Table | None) -> None:
    """Every feature of every row; two payments of a key in one instant would be the same row to the reference."""
    assert found is not None
    assert expected is not None
    where = {key: row for row, key in enumerate(expected.column("payment_id").to_pylist())}
    rows = [where[key] for key in found.column("payment_id").to_pylist()]
    assert len(rows) == MORE, f"the reference answered {len(rows)} of {MORE} rows"
    names = [name for name in found.column_names if name not in KEYS]
    assert len(names) > 150
    for name in names:
        theirs, ours = (
            t.column(name).cast(pa.float64()).fill_null(float("nan")).to_numpy() for t in (found, expected)
        )
        differing = int((~np.isclose(theirs, ours[rows], rtol=0, atol=0, equal_nan=True)).sum())
        assert not differing, f"{name} differs in {differing} of {MORE} rows"


class Joiner:
    """A process with one kind of store, which joins when it is asked to."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(kind, other), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join()

    def join(self, rows: int, *, answered: bool = False) -> Answer:
        self._pipe.send((rows, answered))
        answer: Answer = self._pipe.recv()
        return answer


def serve(kind: str, pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    from feature_repo.stores.open_store import open_store

    settings = join_home.prepared()
    store: Any
    features: Any
    if kind == "ours":
        store = open_store(settings)
        features = store.get_feature_service(join_home.SERVICE)
    else:
        store, features = join_home.reference_store(settings, kind)
    while (asked := pipe.recv()) is not None:
        n, answered = asked
        rows = join_home.entity_rows(settings, n)
        frame = (rows if kind == "ours" else rows.select(KEYS)).to_pandas()
        cpu, wall = time.process_time(), time.perf_counter()
        table = store.get_historical_features(frame, features).to_arrow()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        assert table.num_rows == n
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        pipe.send(Answer(cpu, wall, peak, table if answered else None))
        del table, frame, rows


if __name__ == "__main__":
    main()
