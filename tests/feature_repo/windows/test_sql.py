"""Every feature of every windowed view against DuckDB's SQL windows, on 100,000 generated payments.

DuckDB sees the payments as plain columns; the RANGE frames end one microsecond before the payment: the half-open
window.
"""

from datetime import UTC, datetime

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.history.answer import features_at
from feature_repo.windows.kernels.rows import CAPPED
from feature_repo.windows.spec import QUANTILES, TILED_ONLY, Aggregate, ViewSpec
from flows.generate.history import generate

S, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
EXACT = {"1m": MINUTE, "5m": 5 * MINUTE, "1h": HOUR, "1d": DAY}
FUNCTIONS = ("count", "sum", "mean", "min", "max", "std", "var", "first", "last")
SQL = {
    "mean": "avg",
    "std": "stddev_samp",
    "var": "var_samp",
    "count": "count",
    "sum": "sum",
    "min": "min",
    "max": "max",
    "first": "first",
    "last": "last",
}


@pytest.fixture(scope="module")
def payments() -> pa.Table:
    made = generate(
        11, datetime(2026, 1, 1, tzinfo=UTC), days=30, accounts=2000, merchants=200, payments=103_000
    ).payments
    assert made.num_rows >= 100_000
    ties = made.slice(
        0, 2000
    )  # the same instants and accounts once more, under ids that sort before and after
    ids = pa.array([f"{'a' if i % 2 else 'z'}-{i}" for i in range(2000)])
    return pa.concat_tables([made, ties.set_column(0, "event_id", ids)])


def aggregates(spans: dict[str, int], functions: tuple[str, ...]) -> tuple[Aggregate, ...]:
    return tuple(Aggregate(f"{f}_{w}", f, "amount", span) for w, span in spans.items() for f in functions)


def ours(payments: pa.Table, spec: ViewSpec) -> pd.DataFrame:
    block = BlockColumns(payments)
    keys = block.keys(spec.join_keys)
    values, flags = features_at(spec, keys, block.events(spec), keys, block.times("event_timestamp"))
    assert not (flags & CAPPED).any()
    return pd.DataFrame(values, columns=list(spec.feature_names))


def sql(payments: pa.Table, query: str) -> pd.DataFrame:
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2")
        connection.register("raw", payments.append_column("n", pa.array(np.arange(payments.num_rows))))
        connection.execute("CREATE TABLE p AS SELECT *, epoch_us(event_timestamp) AS t FROM raw")
        return connection.sql(f"SELECT * EXCLUDE n FROM ({query}) ORDER BY n").df().astype(float)


def assert_equal(one: pd.DataFrame, other: pd.DataFrame, std_slack: float = 0.0) -> None:
    assert list(one.columns) == list(other.columns)
    for name in one:
        left, right = one[name].to_numpy(), other[name].to_numpy()
        assert (np.isnan(left) == np.isnan(right)).all(), name
        exact = name.startswith(("count", "min", "max", "first", "last", "unique"))
        slack = std_slack if name.startswith(("std", "var")) else 0.0
        assert np.allclose(left, right, rtol=0 if exact else 1e-9, atol=slack, equal_nan=True), name


@pytest.mark.parametrize("key", ["account_id", "merchant_id"])
def test_exact_windows_equal_sql_range_frames(payments: pa.Table, key: str) -> None:
    spec = ViewSpec("v", (key,), 0, 100_000, 0, aggregates(EXACT, FUNCTIONS))
    columns = ", ".join(f"{SQL[f]}(amount) OVER w{w} AS {f}_{w}" for w in EXACT for f in FUNCTIONS)
    frames = ", ".join(
        f"w{w} AS (PARTITION BY {key} ORDER BY t RANGE BETWEEN {span} PRECEDING AND 1 PRECEDING)"
        for w, span in EXACT.items()
        if w
    )
    ordered = "(SELECT * FROM p ORDER BY t, event_id)"
    theirs = sql(payments, f"SELECT n, {columns} FROM {ordered} WINDOW {frames}")
    for w in (
        EXACT
    ):  # sums of nothing are 0, and of tied events first and last go by id, which RANGE frames leave open
        theirs[f"sum_{w}"] = theirs[f"sum_{w}"].fillna(0.0)
    got = ours(payments, spec)
    tied = [c for c in got if c.startswith(("first", "last"))]
    assert_equal(got.drop(columns=tied), theirs.drop(columns=tied), std_slack=1e-6)
    for w, span in EXACT.items():
        for function, direction in (("first", "arg_min"), ("last", "arg_max")):
            if w not in ("1m", "5m"):
                continue
            joined = sql(
                payments,
                f"""SELECT q.n, {direction}(p.amount, (p.t, p.event_id)) AS {function}_{w} FROM p q
                    LEFT JOIN p ON p.{key} = q.{key} AND p.t >= q.t - {span} AND p.t < q.t GROUP BY q.n""",
            )
            assert_equal(got[[f"{function}_{w}"]], joined)


def test_distinct_counts_and_seconds_since_last_equal_sql(payments: pa.Table) -> None:
    spans = {"5m": 5 * MINUTE, "1h": HOUR}
    unique = tuple(
        Aggregate(f"unique_{w}", "count_distinct", "merchant_id", span) for w, span in spans.items()
    )
    since = Aggregate("since", "seconds_since_last", "event_id", 30 * DAY)
    got = ours(payments, ViewSpec("v", ("account_id",), 0, 100_000, 0, (*unique, since)))
    columns = ", ".join(
        f"count(DISTINCT p.merchant_id) FILTER (p.t >= q.t - {span}) AS unique_{w}"
        for w, span in spans.items()
    )
    theirs = sql(
        payments,
        f"SELECT q.n, {columns} FROM p q LEFT JOIN p ON p.account_id = q.account_id AND p.t >= q.t - {HOUR} AND p.t < q.t GROUP BY q.n",
    )
    theirs["since"] = sql(
        payments,
        f"""SELECT n, (t - max(t) OVER (PARTITION BY account_id ORDER BY t RANGE BETWEEN {30 * DAY} PRECEDING AND 1 PRECEDING)) / 1e6
            AS since FROM p""",
    )["since"]
    assert_equal(got, theirs)


def test_earlier_values_counts_since_and_decayed_sums_equal_sql(payments: pa.Table) -> None:
    seen = pa.array(np.arange(payments.num_rows) % 3 == 0)  # a column that is mostly null
    rare = pc.if_else(seen, payments["amount"], pa.scalar(None, pa.float64()))
    payments = payments.append_column("rare", rare)
    span = DAY
    functions = ("last_2", "last_3", "seconds_since_last", "count_since", "decayed_sum")
    spec = ViewSpec(
        "v", ("account_id",), 0, 100_000, 0, tuple(Aggregate(f, f, "rare", span) for f in functions)
    )
    theirs = sql(
        payments,
        f"""WITH j AS (
                SELECT q.n, q.t, p.t AS pt, p.rare AS x,
                    row_number() OVER (PARTITION BY q.n, p.rare IS NULL ORDER BY p.t DESC, p.event_id DESC) AS of_known,
                    row_number() OVER (PARTITION BY q.n ORDER BY p.t DESC, p.event_id DESC) AS of_all
                FROM p q LEFT JOIN p ON p.account_id = q.account_id AND p.t >= q.t - {span} AND p.t < q.t)
            SELECT n, max(x) FILTER (of_known = 2) AS last_2, max(x) FILTER (of_known = 3) AS last_3,
                (max(t) - max(pt) FILTER (x IS NOT NULL)) / 1e6 AS seconds_since_last,
                min(of_all) FILTER (x IS NOT NULL) - 1 AS count_since,
                coalesce(sum(x * pow(2, -(t - pt) / ({span} / 4))), 0) AS decayed_sum
            FROM j GROUP BY n""",
    )
    assert theirs.notna().any().all()
    assert_equal(ours(payments, spec), theirs)


@pytest.mark.parametrize(("hop", "span"), [(HOUR, 30 * DAY), (MINUTE, HOUR)])
def test_quantiles_equal_sql_to_one_per_cent(payments: pa.Table, hop: int, span: int) -> None:
    spec = ViewSpec(
        "v", ("account_id",), hop, 1, 0, tuple(Aggregate(f, f, "amount", span) for f in (*QUANTILES, "count"))
    )
    lists = f"""SELECT q.n, list(p.amount ORDER BY p.amount) FILTER (p.amount IS NOT NULL) AS l FROM p q LEFT JOIN p
        ON p.account_id = q.account_id AND p.t // {hop} >= (q.t - {span}) // {hop} AND p.t // {hop} < q.t // {hop} GROUP BY q.n"""
    columns = ", ".join(f"l[(len(l) - 1) * {percent} // 100 + 1] AS {f}" for f, percent in QUANTILES.items())
    theirs = sql(payments, f"SELECT n, {columns}, coalesce(len(l), 0) AS count FROM ({lists})")
    got = ours(payments, spec)
    assert (got["count"] == theirs["count"]).all()
    for name in QUANTILES:
        assert np.allclose(got[name], theirs[name], rtol=0.010_000_001, atol=0, equal_nan=True), name


@pytest.mark.parametrize(
    ("hop", "spans"), [(DAY, {"7d": 7 * DAY, "30d": 30 * DAY}), (HOUR, {"1d": DAY}), (MINUTE, {"1h": HOUR})]
)
def test_tiled_windows_equal_sql_over_whole_hops(payments: pa.Table, hop: int, spans: dict[str, int]) -> None:
    functions = (*FUNCTIONS, *sorted(TILED_ONLY))
    spec = ViewSpec("v", ("account_id",), hop, 1, 0, aggregates(spans, functions))
    parts = []
    for w, span in spans.items():
        inside = f"p.h >= (q.t - {span}) // {hop} AND p.h < q.t // {hop}"
        plain = ", ".join(
            f"{SQL[f]}(p.amount) AS {f}_{w}"
            if f not in ("first", "last")
            else f"{'arg_min' if f == 'first' else 'arg_max'}(p.amount, (p.t, p.event_id)) AS {f}_{w}"
            for f in FUNCTIONS
        )
        parts.append(
            sql(
                payments,
                f"""WITH e AS (SELECT *, t // {hop} AS h FROM p), tiles AS (
                        SELECT account_id, h, count(*) AS rows, max(amount) AS top FROM e GROUP BY ALL)
                    SELECT * EXCLUDE m FROM (
                        SELECT q.n, {plain} FROM e q LEFT JOIN e p ON p.account_id = q.account_id AND {inside} GROUP BY q.n)
                    JOIN (SELECT q.n AS m, avg(p.rows) AS mean_hop_count_{w}, avg(p.top) AS mean_hop_max_{w}
                        FROM e q LEFT JOIN tiles p ON p.account_id = q.account_id AND {inside} GROUP BY q.n) ON n = m""",
            )
        )
        parts[-1][f"sum_{w}"] = parts[-1][f"sum_{w}"].fillna(0.0)
    assert_equal(ours(payments, spec), pd.concat(parts, axis=1), std_slack=1e-6)
