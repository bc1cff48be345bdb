"""What the flow adds to an event before it is logged: joins from other streams, derived columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from pyproj import Geod

from feature_repo.enrichment import functions as f
from feature_repo.enrichment.derived import Derived
from feature_repo.enrichment.lists import as_us
from feature_repo.streams.charges import CHARGES
from feature_repo.streams.customers import CUSTOMERS
from feature_repo.streams.merchants import MERCHANTS
from feature_repo.windows.spec import Aggregate, ViewSpec
from flows.bootstrap import run
from flows.enrich.derive import levels
from flows.settings import FlowSettings
from flows.streams import STREAMS
from tests.kits.flow_output import log_rows
from tests.kits.flow_process import running_flow
from tests.kits.payments import START, as_table, encoded, payment
from tests.kits.views import apply_views

HOMES = {f"a{n}": (40.0 + n, 5.0 + n) for n in range(17)}


def log_of(settings: FlowSettings, stream: str) -> str:
    return f"read_parquet('{STREAMS[stream].log_folder(settings)}/*.parquet')"


def read(settings: FlowSettings, stream: str) -> list[dict[str, Any]]:
    files = sorted(STREAMS[stream].log_folder(settings).glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pylist() if files else []


def customer(number: int, account: str, at: Any, **changes: Any) -> dict[str, Any]:
    latitude, longitude = HOMES.get(account, (0.0, 0.0))
    row = {
        "event_id": f"c{number:06d}",
        "event_timestamp": at,
        "account_id": account,
        "home_latitude": latitude,
        "home_longitude": longitude,
        "segment": "standard",
        "opened_at": START - timedelta(days=100),
    }
    return row | changes


def as_json(row: dict[str, Any]) -> bytes:
    return encoded(
        {
            k: v.isoformat().replace("+00:00", "Z") if hasattr(v, "isoformat") else v
            for k, v in row.items()
            if v is not None
        }
    )


def run_files(settings: FlowSettings, **tables: pa.Table) -> None:
    for stream, table in tables.items():
        path = settings.home / f"{stream}.parquet"
        pq.write_table(table, path)
        run(stream, settings.model_copy(update={"source_files": str(path)}))


def random_world(seed: int, payments: int = 3_000) -> tuple[pa.Table, pa.Table]:
    """Customers with many versions, deletions and ties; payments out of order within the lateness."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(400):
        account = f"a{rng.integers(0, 14)}"  # a14 to a16 are unknown
        at = START + timedelta(seconds=int(rng.integers(-2_000, payments)))
        changes: dict[str, Any] = {"segment": f"s{n}", "home_latitude": float(rng.normal(48, 3))}
        if rng.random() < 0.1:
            changes |= {"deleted": True}
        rows.append(customer(n, account, at, **changes))
    rows.sort(key=lambda row: row["event_timestamp"] + timedelta(seconds=float(rng.uniform(0, 500))))
    events = [
        payment(
            n,
            START + timedelta(seconds=n - int(rng.integers(0, 300))),
            latitude=float(rng.normal(48, 2)) if rng.random() < 0.9 else ...,
            longitude=float(rng.normal(11, 2)),
            device_id=f"d{rng.integers(0, 4)}" if rng.random() < 0.9 else ...,
            amount=float(np.round(rng.lognormal(3, 1), 2)),
        )
        for n in range(payments)
    ]
    for event in events:
        if "latitude" not in event:
            del event["longitude"]
    return pa.Table.from_pylist(rows, schema=CUSTOMERS.schema), as_table(events)


@pytest.fixture
def flow_settings(home: Any, clean_redis: redis.Redis) -> FlowSettings:
    settings = FlowSettings(epoch_ms=200)
    apply_views(settings)
    return settings


def test_every_payment_has_the_customer_of_an_asof_join_of_the_two_logs(flow_settings: FlowSettings) -> None:
    customers, payments = random_world(1)
    schema = CUSTOMERS.schema.set(
        CUSTOMERS.schema.get_field_index("segment"), pa.field("segment", pa.string())
    )
    segments = [f"{['student', 'standard', 'premium', 'business'][i % 4]}" for i in range(customers.num_rows)]
    customers = customers.set_column(schema.get_field_index("segment"), "segment", pa.array(segments))
    run_files(flow_settings, customers=customers, payments=payments)
    found = duckdb.sql(f"""
        WITH versions AS (SELECT * FROM {log_of(flow_settings, "customers")}
            QUALIFY row_number() OVER (PARTITION BY account_id, event_timestamp ORDER BY created_timestamp DESC, source_offset DESC) = 1)
        SELECT count(*) AS n, count(c.segment) AS known, count(*) FILTER (WHERE p.customer_segment IS DISTINCT FROM c.segment
            OR p.customer_opened_at IS DISTINCT FROM c.opened_at) AS wrong
        FROM {log_of(flow_settings, "payments")} p
        ASOF LEFT JOIN versions c ON p.account_id = c.account_id AND p.event_timestamp >= c.event_timestamp""")
    n, known, wrong = found.fetchall()[0]
    assert (n, wrong) == (3_000, 0)
    assert 1_000 < known < n  # unknown and deleted customers are there, with nulls


def test_live_join_sees_what_was_accepted_by_then_in_any_order_and_after_a_kill(
    flow_settings: FlowSettings, clean_redis: redis.Redis
) -> None:
    rng = np.random.default_rng(5)
    settings = flow_settings.model_copy(update={"bus_partitions": 1})
    with running_flow(settings) as flow, running_flow(settings, "customers") as changelog:
        for n in range(1_200):
            if n % 3 == 0:
                at = START + timedelta(seconds=n - int(rng.integers(0, 400)))
                row = customer(
                    n, f"a{n % 17}", at, home_latitude=float(n % 90), opened_at=START - timedelta(days=n)
                )
                clean_redis.xadd("millstream:customers:0", {"v": as_json(row)})
            event = payment(
                n, START + timedelta(seconds=n - int(rng.integers(0, 200))), latitude=48.0, longitude=11.0
            )
            clean_redis.xadd("millstream:payments:0", {"v": encoded(event)})
            if n in (400, 800):
                flow.restart()
        flow.wait_for_events(1_200)
        changelog.wait_for(lambda: len(read(settings, "customers")) == 400)
    wrong = duckdb.sql(f"""
        WITH joined AS (
            SELECT p.event_id, p.customer_opened_at AS ours, c.opened_at AS theirs,
                row_number() OVER (PARTITION BY p.event_id ORDER BY c.event_timestamp DESC, c.created_timestamp DESC, c.source_offset DESC) AS nth
            FROM {log_of(settings, "payments")} p LEFT JOIN {log_of(settings, "customers")} c
            ON p.account_id = c.account_id AND c.event_timestamp <= p.event_timestamp AND c.created_timestamp <= p.created_timestamp)
        SELECT count(*), count(theirs), count(*) FILTER (WHERE ours IS DISTINCT FROM theirs) FROM joined WHERE nth = 1""")
    n, known, different = wrong.fetchall()[0]
    assert (n, different) == (1_200, 0)
    assert known > 1_000


def test_charge_that_comes_first_is_in_the_payment_and_one_that_comes_later_has_the_payments_keys(
    flow_settings: FlowSettings,
) -> None:
    events = [payment(n, account_id="a1", merchant_id="m1", amount=5.0) for n in range(4)]

    def charge(n: int, after: float) -> dict[str, Any]:
        return {
            "event_id": f"ch{n}",
            "event_timestamp": START + timedelta(seconds=n + after),
            "payment_id": f"p{n:010d}",
            "card_network": "visa",
            "entry_mode": "chip",
        }

    early = pa.Table.from_pylist([charge(0, -0.3), charge(1, -0.1)], schema=CHARGES.schema)
    late = pa.Table.from_pylist([charge(2, 0.5), charge(9, 0.5)], schema=CHARGES.schema)
    run_files(flow_settings, charges=early, payments=as_table(events))
    again = flow_settings.home / "later.parquet"
    pq.write_table(late, again)
    run("charges", flow_settings.model_copy(update={"source_files": str(again)}))
    networks = {row["event_id"]: row["card_network"] for row in read(flow_settings, "payments")}
    assert networks == {
        "p0000000000": "visa",
        "p0000000001": "visa",
        "p0000000002": None,
        "p0000000003": None,
    }
    keys = {
        row["event_id"]: (row["account_id"], row["payment_amount"]) for row in read(flow_settings, "charges")
    }
    assert keys == {"ch0": (None, None), "ch1": (None, None), "ch2": ("a1", 5.0), "ch9": (None, None)}


def test_charges_of_a_long_history_are_joined_from_files(flow_settings: FlowSettings) -> None:
    n = 6_000
    events = [payment(i, START - timedelta(minutes=10 * (n - i)), amount=5.0) for i in range(n)]
    charges = pa.table(
        {
            "event_id": [f"ch{i}" for i in range(n)],
            "event_timestamp": as_table(events)["event_timestamp"],
            "payment_id": [event["event_id"] for event in events],
            "card_network": ["visa"] * n,
        }
    )
    run_files(flow_settings, charges=charges, payments=as_table(events))
    assert log_rows(flow_settings, ["card_network"])["card_network"].null_count == 0


def test_merchant_is_joined_and_its_deletion_makes_it_unknown(flow_settings: FlowSettings) -> None:
    def merchant(n: int, seconds: float, **changes: Any) -> dict[str, Any]:
        at = START + timedelta(seconds=seconds)
        return {"event_id": f"m{n}", "event_timestamp": at, "merchant_id": "m1"} | changes

    merchants = pa.Table.from_pylist(
        [
            merchant(0, 0, category="grocery", risk_tier="low"),
            merchant(1, 2, category="gaming", risk_tier="high"),
            merchant(2, 4, deleted=True),
        ],
        schema=MERCHANTS.schema,
    )
    run_files(
        flow_settings,
        merchants=merchants,
        payments=as_table([payment(n, merchant_id="m1") for n in range(6)]),
    )
    rows = sorted(read(flow_settings, "payments"), key=lambda row: row["event_id"])
    assert [row["merchant_category"] for row in rows] == [
        "grocery",
        "grocery",
        "gaming",
        "gaming",
        None,
        None,
    ]
    assert [row["merchant_risk_tier"] for row in rows] == ["low", "low", "high", "high", None, None]


def test_derived_columns_are_what_a_plain_loop_over_the_accepted_payments_gives(
    flow_settings: FlowSettings,
) -> None:
    customers, payments = random_world(2)
    customers = customers.set_column(
        CUSTOMERS.schema.get_field_index("segment"), "segment", pa.nulls(customers.num_rows, pa.string())
    )
    run_files(flow_settings, customers=customers, payments=payments)
    versions = read(flow_settings, "customers")
    rows = sorted(read(flow_settings, "payments"), key=lambda row: row["source_offset"])
    earth, month = Geod(ellps="WGS84"), timedelta(days=30)

    def distance(a: dict[str, Any], latitude: float | None, longitude: float | None) -> float | None:
        if None in (a["latitude"], latitude, longitude):
            return None
        return float(earth.inv(a["longitude"], a["latitude"], longitude, latitude)[2])

    for i, row in enumerate(rows):
        t = row["event_timestamp"]
        before = [
            b
            for b in rows[:i]
            if b["account_id"] == row["account_id"] and t - month <= b["event_timestamp"] < t
        ]
        placed = [b for b in before if b["latitude"] is not None]
        last = max(placed, key=lambda b: (b["event_timestamp"], b["event_id"]), default=None)
        homes = [c for c in versions if c["account_id"] == row["account_id"] and c["event_timestamp"] <= t]
        home = max(homes, key=lambda c: (c["event_timestamp"], c["source_offset"]), default=None)
        home_m = distance(row, home["home_latitude"], home["home_longitude"]) if home else None
        assert row["home_distance_m"] == pytest.approx(home_m)
        assert row["is_far"] == (None if home_m is None else home_m > 50_000)
        previous = distance(row, last["latitude"], last["longitude"]) if last else None
        assert row["previous_distance_m"] == pytest.approx(previous)
        if previous is not None and last is not None:
            seconds = max((t - last["event_timestamp"]).total_seconds(), 1.0)
            assert row["speed_kmh"] == pytest.approx(min(previous / seconds * 3.6, 100_000.0))
        known = {b["device_id"] for b in before}
        assert row["is_new_device"] == (None if row["device_id"] is None else row["device_id"] not in known)
        assert row["is_new_payee"] == (row["merchant_id"] not in {b["merchant_id"] for b in before})


def test_interrupted_run_derives_what_an_uninterrupted_one_does(
    flow_settings: FlowSettings, clean_redis: redis.Redis
) -> None:
    _, payments = random_world(3, 2_000)
    events = [
        {k: v for k, v in row.items() if v is not None}
        | {"event_timestamp": row["event_timestamp"].isoformat()}
        for row in payments.to_pylist()
    ]
    logs, first_ms = [], int(START.timestamp() * 1_000)
    for name, moments in (("whole", ()), ("broken", (500, 900, 1_400))):
        folder = flow_settings.home / name
        folder.mkdir()
        settings = flow_settings.model_copy(update={"home": folder, "bus_partitions": 1})
        apply_views(settings)
        clean_redis.delete("millstream:payments:0")
        with running_flow(settings) as flow:
            for n, event in enumerate(events):
                clean_redis.xadd(
                    "millstream:payments:0", {"v": encoded(event)}, id=f"{first_ms + 1_000 * n}-0"
                )
                if n in moments:
                    flow.restart()
            flow.wait_for_events(len(events))
        logs.append(log_rows(settings).sort_by("source_offset"))
    whole, broken = logs
    assert whole.num_rows > 1_900
    assert whole.equals(broken)


def test_statement_about_a_payment_is_joined_to_its_keys_and_counts_only_what_it_changes(
    flow_settings: FlowSettings,
) -> None:
    from feature_repo.streams.labels import LABELS

    events = [payment(n, account_id=f"a{n}", merchant_id="m1") for n in range(3)]

    def label(n: int, hours: float, fraud: bool, **changes: Any) -> dict[str, Any]:
        at = START + timedelta(hours=hours)
        row = {
            "label_id": f"p{n}:{hours}",
            "event_timestamp": at,
            "payment_id": f"p{n:010d}",
            "is_fraud": fraud,
            "labeler": "analyst",
        }
        return row | changes

    labels = [
        label(0, 1, True),
        label(1, 1.1, False),
        label(0, 1.15, True),
        label(0, 1.2, False),
        label(0, 1.21, True),
        label(8, 1.22, True, account_id="given", merchant_id="too"),
        label(9, 1.23, True),
    ]
    run_files(
        flow_settings, payments=as_table(events), labels=pa.Table.from_pylist(labels, schema=LABELS.schema)
    )
    rows = sorted(read(flow_settings, "labels"), key=lambda row: row["source_offset"])
    assert [(row["account_id"], row["merchant_id"]) for row in rows] == [
        ("a0", "m1"), ("a1", "m1"), ("a0", "m1"), ("a0", "m1"), ("a0", "m1"), ("given", "too"), (None, None),
    ]  # fmt: skip
    assert [row["fraud_change"] for row in rows] == [1.0, 0.0, 0.0, -1.0, 1.0, 1.0, 1.0]
    assert [row["known_change"] for row in rows] == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert [row["fraud_reported"] for row in rows] == [1.0, None, None, None, 1.0, 1.0, 1.0]


def test_features_on_features_take_one_pass_however_deep() -> None:
    def context(name: str, column: str) -> ViewSpec:
        return ViewSpec(name, ("account_id",), 0, 16, 0, (Aggregate(f"{name}_sum", "sum", column, 10**9),))

    program = (
        Derived("far", ("amount",), f.is_far),
        context("fars", "far"),
        Derived("often_far", ("fars_sum",), f.is_new),
        context("often", "often_far"),
        Derived("rest", ("often_sum", "far"), f.ratio),
    )
    made = levels(program)
    assert [[c.name for c in level.columns] for level in made] == [["far"], ["often_far"], ["rest"]]
    assert [[s.name for specs in level.contexts.values() for s in specs] for level in made] == [
        ["fars"],
        ["often"],
        [],
    ]


def test_distance_is_the_geodesic_in_metres_and_null_without_a_place() -> None:
    # Paris to London; from an independent source: 343,923 m on WGS 84.
    found = f.distance_m(*(np.array([x, np.nan]) for x in (48.8566, 2.3522, 51.5074, -0.1278)))
    assert found[0] == pytest.approx(343_923, abs=5)
    assert np.isnan(found[1])


def test_local_hour_follows_the_sun_at_home() -> None:
    noon = np.array([12 * 3_600e6] * 4)
    assert f.local_hour(noon, np.array([0.0, 151.2, -74.0, np.nan]))[:3].tolist() == [12.0, 22.0, 7.0]
    assert f.is_night(np.array([22.0, 5.9, 6.0, 21.9])).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_a_time_is_the_same_microsecond_from_the_scorer_and_from_pandas() -> None:
    first = 1_795_337_023_158_064  # pandas' own division gives a quarter of a microsecond more
    times = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=first + i) for i in range(500)]
    exact = [float(first + i) for i in range(500)]
    assert as_us(times).tolist() == exact
    assert as_us([pd.Timestamp(t) for t in times]).tolist() == exact
    assert as_us(pd.Series(times).astype("datetime64[ns, UTC]").tolist()).tolist() == exact
    assert np.isnan(as_us([None, pd.NaT])).all()
