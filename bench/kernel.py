"""`kernel`: the W1 features of a million payments, read from Parquet, each as of its own payment, in one process.

Ours is what the offline store does: flat columns from Parquet, then sliding windows
(`feature_repo.windows.history.answer`). The references are DuckDB's SQL windows with one thread and Polars' rolling
groups over the same file, with the same half-open windows. All figures are events per CPU-second of all threads. No
window is capped. Every value is compared: counts, maxima, distinct counts, earlier values and seconds exactly; sums
and means (exact here, floating-point there) to 1e-9 of their size.

DuckDB needs about 40 s of CPU for all payments. Its rounds therefore use every fifth account and every fifth merchant
in the order of activity, without the busiest; its cost per event is that of both together.

python -m bench.kernel [--rounds 5] [--events 1000000]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from bench import w1
from bench.harness import ROUNDS, Report, Target, console, timed
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.history.answer import EventColumns, answer
from feature_repo.windows.history.queries import Queries
from feature_repo.windows.history.view import HistoryView

CAPACITY: Final = 1 << 18
"""More than any account has events."""
KEYS: Final = ("account_id", "merchant_id")
TIME: Final = "event_timestamp"
VIEWS: Final = (w1.account_view(CAPACITY), w1.merchant_view(CAPACITY))
NAMES: Final = {
    "account_id": VIEWS[0].feature_names,
    "merchant_id": tuple("merchant_" + name for name in VIEWS[1].feature_names),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--events", type=int, default=w1.EVENTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "payments.parquet"
        table = w1.payments(given.events)
        pq.write_table(table, path, compression="zstd")
        measure(path, given.rounds, {key: a_fifth(table, key) for key in KEYS})


def measure(path: Path, rounds: int, fifths: dict[str, list[str]]) -> None:
    """Interleaved rounds; the first answers, which also compile, are compared."""
    ours(path)
    mine: list[float] = []
    sql: list[float] = []
    frames: list[float] = []
    for number in range(rounds):
        with timed() as span:
            features = ours(path)
        events = len(features["account_id"])
        mine.append(events / span.cpu)
        with timed() as span:
            polars = with_polars(path)
        frames.append(events / span.cpu)
        seconds = 0.0
        for key in KEYS:
            with timed() as span:
                found = with_duckdb(path, key, fifths[key])
            seconds += span.cpu / found.num_rows
            if number == 0:
                compare(f"DuckDB, {key}", features[key], NAMES[key], found, path)
        sql.append(1 / seconds)
        if number == 0:
            for key in KEYS:
                compare(f"Polars, {key}", features[key], NAMES[key], polars.to_arrow(), path)
        console.print(
            f"round {number + 1}: {mine[-1]:,.0f} events per CPU-second, DuckDB {sql[-1]:,.0f}, Polars {frames[-1]:,.0f}"
        )
    report = Report("kernel")
    report.add(
        "kernel",
        mine,
        "events/CPU-s",
        Target("ratio", "at least", 20),
        reference="DuckDB SQL windows",
        references=sql,
        note="DuckDB timed on the payments of a fifth of the accounts and of the merchants; every value of these compared",
    )
    report.add(
        "kernel_polars",
        mine,
        "events/CPU-s",
        Target("ratio", "at least", 7),
        reference="Polars rolling",
        references=frames,
        note="every value compared",
    )
    report.finish()


def ours(path: Path) -> dict[str, np.ndarray]:
    """float64 [payments, features] per key, in the order of the file."""
    block = BlockColumns(pq.read_table(path, columns=[TIME, *KEYS, "amount"], read_dictionary=list(KEYS)))
    times, made = block.times(TIME), {}
    for spec in VIEWS:
        hashes = block.key_hashes(spec.join_keys)
        queries = Queries(hashes, times)
        events = EventColumns(
            queries.key_ids(hashes),
            times,
            {name: block.values(name) for name in spec.values},
            {name: block.hashed(name) for name in spec.hashed},
            lambda: BlockColumns(pq.read_table(path, columns=["event_id"])).ids("event_id"),
        )
        view = HistoryView(spec, queries.n, spec.values, spec.hashed)
        answer([view], queries, events)
        assert not view.flags.any(), "a window was capped"
        made[spec.join_keys[0]] = view.out
    return made


def with_duckdb(path: Path, key: str, of: Sequence[str]) -> pa.Table:
    """The features of one key, of its values `of`; and the payment's time, by which it is known."""
    spec = VIEWS[KEYS.index(key)]
    selected = []
    for a, name in zip(spec.aggregates, NAMES[key], strict=True):
        function = {
            "count_distinct": f"count(DISTINCT {a.column})",
            "last": f"last_value({a.column})",
            "seconds_since_last": "t - last_value(t)",
            "mean": f"avg({a.column})",
        }.get(a.function, f"{a.function}({a.column})")
        selected.append(f"{function} OVER w{a.window_us} AS {name}")
    windows = ", ".join(
        f"w{us} AS (PARTITION BY {key} ORDER BY t RANGE BETWEEN {us} PRECEDING AND 1 PRECEDING)"
        for us in sorted({a.window_us for a in spec.aggregates})
    )
    query = f"""
        SELECT {TIME}, {", ".join(selected)}
        FROM (SELECT *, epoch_us({TIME}) AS t FROM read_parquet(?) WHERE {key} IN (SELECT unnest(?)))
        WINDOW {windows}"""  # noqa: S608  # names of our own
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        found: pa.Table = connection.sql(query, params=[str(path), list(of)]).to_arrow_table()
    return found


def with_polars(path: Path) -> pl.DataFrame:
    """All features and the payment's time: one rolling frame for each key and window, side by side."""
    payments = pl.scan_parquet(path).select(TIME, *KEYS, "amount")
    sides = []
    for spec, key in zip(VIEWS, KEYS, strict=True):
        ordered = payments.sort(key, TIME).with_columns(at=TIME).collect()
        frames = []
        for window in sorted({a.window_us for a in spec.aggregates}):
            special = {
                "count": pl.len(),
                "count_distinct": pl.col("merchant_id").n_unique(),
                "seconds_since_last": pl.col("at").last(),
            }
            wanted = [
                special[a.function] if a.function in special else getattr(pl.col("amount"), a.function)()
                for a in spec.aggregates
                if a.window_us == window
            ]
            names = [n for a, n in zip(spec.aggregates, NAMES[key], strict=True) if a.window_us == window]
            frame = ordered.rolling(TIME, period=f"{window}us", closed="left", group_by=key).agg(
                [expression.alias(name) for expression, name in zip(wanted, names, strict=True)]
            )
            frames.append(frame if not frames else frame.drop(key, TIME))
        side = pl.concat(frames, how="horizontal").drop(key).sort(TIME)
        sides.append(side if not sides else side.drop(TIME))
    last = "seconds_since_last_30d"
    return pl.concat(sides, how="horizontal").with_columns(
        (pl.col(TIME) - pl.col(last)).dt.total_microseconds().alias(last)
    )


def a_fifth(table: pa.Table, key: str) -> list[str]:
    """Every fifth value of a key along the order of activity, from the third on."""
    counted = table.column(key).value_counts().flatten()
    values, counts = counted[0].to_numpy(zero_copy_only=False), counted[1].to_numpy()
    chosen: list[str] = values[np.lexsort((values, -counts))][2::5].tolist()
    return chosen


def compare(what: str, features: np.ndarray, names: Sequence[str], found: pa.Table, path: Path) -> None:
    """Hold every value found against ours, row by row; no two payments have the same time."""
    times = pq.read_table(path, columns=[TIME]).column(TIME).cast(pa.int64()).to_numpy()
    rows = np.searchsorted(times, found.column(TIME).cast(pa.int64()).to_numpy())
    for place, name in enumerate(names):
        column = found.column(name).cast(pa.float64()).fill_null(float("nan")).to_numpy()
        own = features[rows, place]
        if name.startswith("seconds_"):
            column = column / 1e6  # the references answer in microseconds
        if "_sum_" in name:
            column = np.nan_to_num(column)  # a sum of nothing: 0 here, null in SQL
        if "_sum_" in name or "_mean_" in name:
            same = np.isclose(own, column, rtol=1e-9, atol=1e-7, equal_nan=True)
        else:
            same = (own == column) | (np.isnan(own) & np.isnan(column))
        assert same.all(), f"{what}: {name} differs in {(~same).sum()} of {len(rows)} rows"


if __name__ == "__main__":
    main()
