"""`training_set`: 2M rows of 60 features from a log of 20M events through Feast, against 100,000 rows from 1M events.

The large case is the same shop twenty times as large: W1 with proportionally more accounts, so that a key has as many
events. Rows are payments drawn from the log, each as of itself; the views are exact and tiled, of both keys. Each size
runs in a process of its own that ends with a table of all features in memory; its peak is resident memory, including
Feast and the requested rows. Before a case is timed, counts and sums of one window are compared with DuckDB's for some
rows.

python -m bench.training_set [--rounds 5] [--large-rounds 1]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from bench import w1
from bench.harness import ROUNDS, Report, Target, console
from feature_repo.windows.spec import INTEGER_FUNCTIONS

SMALL, LARGE = 1_000_000, 20_000_000
ROWS_A_FILE: Final = 1_000_000
HELD: Final = 200
"""Rows whose answers are compared."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--large-rounds", type=int, default=1)
    parser.add_argument("--large", type=int, default=LARGE)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs = {events: Path(folder) / str(events) for events in (SMALL, given.large)}
        for events, log in logs.items():
            alone(write_log, log, events)
        large: list[float] = []
        peaks: list[float] = []
        for number in range(given.large_rounds):
            [rate], peak = alone(training_sets, logs[given.large], given.large // 10, [number])
            large.append(rate)
            peaks.append(peak)
            console.print(f"{rate:,.0f} rows/CPU-s of {given.large:,} events, {peak:.2f} GB")
        small, _ = alone(training_sets, logs[SMALL], SMALL // 10, [*range(given.rounds)])
        console.print(f"{', '.join(f'{rate:,.0f}' for rate in small)} rows/CPU-s of {SMALL:,} events")
    middle = float(np.median(small))
    report = Report("training_set")
    report.add(
        "training_set",
        large,
        "rows/CPU-s",
        Target("ratio", "at least", 1 / 1.5),
        reference=f"the same from {SMALL:,} events",
        references=[middle] * len(large),
        note=f"60 features, {given.large // 10:,} rows, {len(large)} rounds of it and {len(small)} of the small case (its median)",
    )
    report.add(
        "training_set_memory", peaks, "GB", Target("figure", "at most", 6), note="peak resident, all included"
    )
    report.finish()


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """A function's answer from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def write_log(log: Path, events: int) -> None:
    log.mkdir()
    table = w1.payments(events, accounts=events // 20)
    for first in range(0, events, ROWS_A_FILE):
        pq.write_table(
            table.slice(first, ROWS_A_FILE),
            log / f"part-{first // ROWS_A_FILE:04d}.parquet",
            compression="zstd",
            use_dictionary=["account_id", "merchant_id"],
            row_group_size=1 << 17,
        )


def training_sets(log: Path, n: int, seeds: list[int]) -> tuple[list[float], float]:
    """Rows per CPU-second, one figure a seed, and the peak of this process in GB."""
    warnings.simplefilter("ignore")
    rates: list[float] = []
    peak = 0.0
    with tempfile.TemporaryDirectory() as folder:
        store, features = feature_store(Path(folder), log)
        assert len(features) == 60
        for seed in seeds:
            rows = entity_rows(log, n, seed)
            if not rates:
                store.get_historical_features(
                    rows.head(50), features
                ).to_arrow()  # loads the compiled kernels
            began = time.process_time()
            table = store.get_historical_features(rows, features).to_arrow()
            rates.append(n / (time.process_time() - began))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # before DuckDB looks at it
            assert table.num_rows == n
            hold(table, log, seed)
    return rates, peak


def entity_rows(log: Path, n: int, seed: int) -> pd.DataFrame:
    table = ds.dataset(log).to_table(columns=["account_id", "merchant_id", "event_timestamp"])
    chosen = np.sort(np.random.default_rng(seed).choice(table.num_rows, n, replace=False))
    return table.take(chosen).to_pandas()


def feature_store(folder: Path, log: Path) -> tuple[Any, list[str]]:
    """A Feast store with our offline store over the log, and the references of its 60 features."""
    from feast import Entity, FeatureStore, Field, FileSource, PushSource, RepoConfig, StreamFeatureView
    from feast.aggregation import Aggregation
    from feast.data_format import ParquetFormat
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    minutes, hours, days = (lambda n, unit=u: timedelta(**{unit: n}) for u in ("minutes", "hours", "days"))
    statistics = ["count", "sum", "mean", "min", "max", "std"]
    declared = [
        ("account_recent", "account_id", None, [
            *((f, "amount", w) for w in (minutes(5), hours(1), days(1), days(7)) for f in statistics),
            *(("count_distinct", "merchant_id", w) for w in (hours(1), days(1))),
            *((f, "amount", days(30)) for f in ("last", "last_2", "last_3", "seconds_since_last")),
        ]),
        ("account_month", "account_id", hours(1), [
            (f, "amount", w) for w in (days(7), days(30)) for f in ("count", "sum", "mean", "max", "std")
        ]),
        ("merchant_recent", "merchant_id", None, [
            *((f, "amount", w) for w in (minutes(5), minutes(15)) for f in ("count", "sum", "mean", "max")),
            *(("count_distinct", "account_id", w) for w in (minutes(5), minutes(15))),
            *((f, "amount", days(1)) for f in ("last", "seconds_since_last")),
        ]),
        ("merchant_day", "merchant_id", minutes(1), [
            (f, "amount", w) for w in (hours(1), days(1)) for f in ("count", "sum", "mean", "max")
        ]),
    ]  # fmt: skip
    source = FileSource(
        name="log", path=str(log), file_format=ParquetFormat(), timestamp_field="event_timestamp"
    )
    entities = {k: Entity(name=k, value_type=ValueType.STRING) for k in ("account_id", "merchant_id")}
    views = []
    for name, key, hop, reads in declared:
        aggregations = [
            Aggregation(
                name=f"{name}_{c}_{f}_{w // timedelta(minutes=1)}m", function=f, column=c, time_window=w
            )
            for f, c, w in reads
        ]
        views.append(
            StreamFeatureView(
                name=name,
                entities=[entities[key]],
                source=PushSource(name="payments", batch_source=source),
                timestamp_field="event_timestamp",
                aggregations=aggregations,
                schema=[
                    Field(name=a.name, dtype=Int64 if a.function in INTEGER_FUNCTIONS else Float64)
                    for a in aggregations
                ],
                enable_tiling=hop is not None,
                tiling_hop_size=hop,
                tags={"capacity": "1024"},
            )
        )
    store = FeatureStore(
        config=RepoConfig(
            project="training_set",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store=None,
            offline_store={"type": "feature_repo.stores.offline.MillstreamOfflineStore"},
            entity_key_serialization_version=3,
        )
    )
    store.apply([*entities.values(), *views])
    return store, [f"{view.name}:{a.name}" for view in views for a in view.aggregations]


def hold(table: pa.Table, log: Path, seed: int) -> None:
    """Counts and sums of the account's last hour, against DuckDB over the log."""
    chosen = np.random.default_rng(seed + 1).choice(table.num_rows, HELD, replace=False)
    names = [f"account_recent_amount_{f}_60m" for f in ("count", "sum")]
    asked = table.select(["account_id", "event_timestamp", *names]).take(np.sort(chosen))
    with duckdb.connect() as connection:
        connection.register("asked", asked)
        differing = connection.sql(
            f"""
            SELECT count(*) FROM (
                SELECT any_value(a.{names[0]}) AS n, any_value(a.{names[1]}) AS s, count(l.amount) AS ln, coalesce(sum(l.amount), 0) AS ls
                FROM asked a LEFT JOIN read_parquet(?) l ON l.account_id = a.account_id
                    AND l.event_timestamp < a.event_timestamp AND l.event_timestamp >= a.event_timestamp - INTERVAL 1 HOUR
                GROUP BY a.account_id, a.event_timestamp)
            WHERE n <> least(ln, 1024) OR (ln <= 1024 AND abs(s - ls) > 1e-6)""",  # noqa: S608  # names of our own
            params=[f"{log}/*.parquet"],
        ).fetchall()[0][0]
    assert not differing, f"{differing} of {HELD} rows differ from DuckDB's"


if __name__ == "__main__":
    main()
