"""The features of four published examples, each value against plain SQL on the same events; the page is
docs/five-systems.md.

The events go through the real flows, with a real key for pseudonyms. DuckDB never sees what the flows made of them: it
is given the events as they came, with plain ids, and both sides meet in the payment's `event_id`.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureStore

from feature_repo.privacy import PARTY, Pseudonyms
from feature_repo.settings import PROJECT_ROOT, RepoSettings
from feature_repo.stores.applied_views import AppliedViews, read_views, write_views
from feature_repo.stores.clock import as_of
from feature_repo.stores.open_store import REPO, open_store
from feature_repo.stores.reader.plan import compile_plan
from feature_repo.stores.reader.reader import Reader, Vector
from feature_repo.streams.charges import CHARGES
from feature_repo.streams.customers import CUSTOMERS
from feature_repo.streams.labels import LABELS
from feature_repo.streams.merchants import MERCHANTS
from feature_repo.streams.payments import PAYMENTS
from flows.bootstrap import run
from flows.settings import FlowSettings
from tests.kits.applied_home import feast
from tests.kits.flow_output import dead_letter_rows, events_written, log_rows
from tests.kits.flow_process import running_flow
from tests.kits.payments import encoded
from training.label_view import read_label_view

PAGE = PROJECT_ROOT / "docs" / "five-systems.md"
SYSTEMS = ("proton", "feldera", "deltastream", "irori")
KEY = "k1:" + "Zml2ZSBzeXN0ZW1z" * 3
DAYS = 40
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
START = MIDNIGHT - timedelta(days=DAYS)  # keys online live for a month after their last event
ACCOUNTS = [f"account-{n}" for n in range(24)]
KNOWN = ACCOUNTS[:21]  # the others have no row in the changelog of customers
SHOPS = [f"shop-{n}" for n in range(8)]
KINDS = ["grocery", "travel", "jewellery", "smuggling"]
RECIPIENTS = [*SHOPS, *ACCOUNTS[:3]]
ROWS = """
    SELECT event_id, event_id AS payment_id, account_id, merchant_id, merchant_category, merchant_category AS merchant_type,
        event_timestamp, type, amount, account_balance_before, latitude, longitude
    FROM payments"""

METRES = """
CREATE MACRO arc(la, oa, lb, ob) AS
    2 * asin(sqrt(least(1, pow(sin((lb - la) / 2), 2) + cos(la) * cos(lb) * pow(sin((ob - oa) / 2), 2))));
CREATE MACRO reduced(latitude) AS atan((1 - 1 / 298.257223563) * tan(radians(latitude)));
CREATE MACRO lambert(a, p, q) AS CASE WHEN a < 1e-12 THEN 0 ELSE 6378137 * (a - 1 / 298.257223563 / 2 * (
    (a - sin(a)) * pow(sin(p) * cos(q) / cos(a / 2), 2) + (a + sin(a)) * pow(cos(p) * sin(q) / sin(a / 2), 2))) END;
CREATE MACRO metres(la, oa, lb, ob) AS lambert(arc(reduced(la), radians(oa), reduced(lb), radians(ob)),
    (reduced(la) + reduced(lb)) / 2, (reduced(lb) - reduced(la)) / 2);
"""
"""Distance on the ellipsoid in plain SQL (Lambert's formula for long lines, good to metres in a thousand kilometres).
"""

PROTON = """
WITH minute AS (
    SELECT event_id, count(*) OVER w AS account_payment_count_1m, max(amount) OVER w AS account_amount_max_1m,
        min(amount) OVER w AS account_amount_min_1m, avg(amount) OVER w AS account_amount_mean_1m
    FROM payments WINDOW w AS (PARTITION BY account_id ORDER BY t RANGE BETWEEN INTERVAL 1 MINUTE PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING)),
before AS (
    SELECT q.event_id, arg_max(p.amount, (p.t, p.event_id)) AS account_amount_last,
        date_diff('microsecond', max(p.t), q.t) / 1e6 AS account_seconds_since_last,
        count(DISTINCT p.merchant_id) FILTER (p.t >= q.t - INTERVAL 5 MINUTE) AS account_payees_unique_5m
    FROM payments q LEFT JOIN payments p ON p.account_id = q.account_id AND p.t < q.t AND p.t >= q.t - INTERVAL 30 DAY
    GROUP BY q.event_id, q.t),
days AS (SELECT account_id, t::DATE AS day, count(*) AS n, max(amount) AS top FROM payments GROUP BY ALL),
month AS (
    SELECT q.event_id, avg(n) AS account_daily_count_mean_30d, avg(top) AS account_daily_max_mean_30d
    FROM payments q LEFT JOIN days d ON d.account_id = q.account_id AND d.day < q.t::DATE AND d.day >= q.t::DATE - 30
    GROUP BY q.event_id)
SELECT event_id, amount AS payment_amount, (type = 'TRANSFER')::INT AS payment_is_transfer, * EXCLUDE (event_id)
FROM (SELECT event_id, amount, type FROM payments) JOIN minute USING (event_id) JOIN before USING (event_id) JOIN month USING (event_id)
"""

FELDERA = """
SELECT event_id, home_latitude, home_longitude, distance AS home_distance_m,
    avg(amount) OVER day AS account_amount_mean_1d_incl,
    sum(CASE WHEN distance > 50000 THEN 1 ELSE 0 END) OVER day AS account_far_count_1d_incl
FROM enriched
WINDOW day AS (
    PARTITION BY account_id ORDER BY t
    RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW EXCLUDE TIES)
"""

DELTASTREAM = """
WITH windows AS (
    SELECT event_id, count(*) OVER minutes AS merchant_payment_count_5m, coalesce(sum(amount) OVER minutes, 0) AS merchant_amount_sum_5m,
        count(DISTINCT account_id) OVER minutes AS merchant_payers_unique_5m,
        count(*) OVER hour AS recipient_payment_count_1h,
        count(*) OVER day AS recipient_payment_count_1d,
        count(*) OVER week AS recipient_payment_count_7d,
        count(DISTINCT account_id) OVER day AS recipient_payers_unique_1d,
        count(DISTINCT account_id) OVER week AS recipient_payers_unique_7d,
        date_diff('microsecond', max(t) OVER week, t) / 1e6 AS recipient_seconds_since_last,
        avg(latitude) OVER week AS recipient_latitude_mean_7d,
        avg(longitude) OVER week AS recipient_longitude_mean_7d,
        stddev_samp(latitude) OVER week AS recipient_latitude_std_7d,
        stddev_samp(longitude) OVER week AS recipient_longitude_std_7d,
        avg((distance > 50000)::INT) OVER week AS recipient_far_share_7d
    FROM enriched
    WINDOW minutes AS (PARTITION BY merchant_id ORDER BY t RANGE BETWEEN INTERVAL 5 MINUTE PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING),
        hour AS (PARTITION BY merchant_id ORDER BY t RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING),
        day AS (PARTITION BY merchant_id ORDER BY t RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING),
        week AS (PARTITION BY merchant_id ORDER BY t RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING)),
last AS (
    SELECT q.event_id, arg_max(p.latitude, (p.t, p.event_id)) AS recipient_latitude_last,
        arg_max(p.longitude, (p.t, p.event_id)) AS recipient_longitude_last
    FROM payments q LEFT JOIN payments p ON p.merchant_id = q.merchant_id AND p.t < q.t AND p.t >= q.t - INTERVAL 7 DAY
    GROUP BY q.event_id),
charged AS (
    SELECT p.event_id, h.card_network, h.entry_mode, h.three_ds_result, h.issuer_country
    FROM payments p ASOF LEFT JOIN charges h ON h.payment_id = p.event_id AND p.t >= h.t)
SELECT e.home_latitude, e.home_longitude, e.customer_segment, windows.*, last.* EXCLUDE (event_id), charged.* EXCLUDE (event_id),
    metres(latitude, longitude, recipient_latitude_mean_7d, recipient_longitude_mean_7d) AS recipient_distance_m,
    metres(latitude, longitude, recipient_latitude_last, recipient_longitude_last) AS recipient_last_distance_m
FROM enriched e JOIN windows USING (event_id) JOIN last USING (event_id) JOIN charged USING (event_id)
"""

IRORI = """
WITH before AS (
    SELECT q.event_id, list(p.amount ORDER BY p.t DESC, p.event_id DESC) FILTER (p.amount IS NOT NULL) AS amounts,
        list(p.distance ORDER BY p.t DESC, p.event_id DESC) FILTER (p.distance IS NOT NULL) AS distances,
        avg(p.amount) AS amount_mean, stddev_samp(p.amount) AS amount_std,
        avg(p.distance) AS distance_mean, stddev_samp(p.distance) AS distance_std
    FROM enriched q LEFT JOIN enriched p ON p.account_id = q.account_id AND p.t < q.t AND p.t >= q.t - INTERVAL 30 DAY
    GROUP BY q.event_id),
category AS (
    SELECT q.event_id, avg(p.amount) AS category_mean, stddev_samp(p.amount) AS category_std
    FROM enriched q LEFT JOIN enriched p ON p.merchant_category = q.merchant_category
        AND date_trunc('hour', p.t) < date_trunc('hour', q.t) AND date_trunc('hour', p.t) >= date_trunc('hour', q.t - INTERVAL 30 DAY)
    GROUP BY q.event_id),
last AS (
    SELECT q.event_id, arg_max(p.latitude, (p.t, p.event_id)) AS latitude_last, arg_max(p.longitude, (p.t, p.event_id)) AS longitude_last
    FROM payments q LEFT JOIN payments p ON p.account_id = q.account_id AND p.t < q.t AND p.t >= q.t - INTERVAL 30 DAY
    GROUP BY q.event_id)
SELECT event_id, amount AS payment_amount, distance AS home_distance_m,
    metres(latitude, longitude, latitude_last, longitude_last) AS previous_distance_m,
    CASE merchant_category WHEN 'grocery' THEN 2 WHEN 'travel' THEN 12 WHEN 'jewellery' THEN 13 ELSE 0 END AS merchant_type_code,
    amounts[1] AS account_amount_last, amounts[2] AS account_amount_last_2, amounts[3] AS account_amount_last_3,
    distances[1] AS account_home_distance_last, distances[2] AS account_home_distance_last_2, distances[3] AS account_home_distance_last_3,
    (amount - category_mean) / category_std AS amount_in_category,
    (amount - amount_mean) / amount_std AS amount_in_account,
    (distance - distance_mean) / distance_std AS distance_in_account,
    (amounts[1] - amount_mean) / amount_std AS previous_amount_1_in_account,
    (amounts[2] - amount_mean) / amount_std AS previous_amount_2_in_account,
    (amounts[3] - amount_mean) / amount_std AS previous_amount_3_in_account,
    (distances[1] - distance_mean) / distance_std AS previous_distance_1_in_account,
    (distances[2] - distance_mean) / distance_std AS previous_distance_2_in_account,
    (distances[3] - distance_mean) / distance_std AS previous_distance_3_in_account
FROM enriched JOIN before USING (event_id) JOIN category USING (event_id) JOIN last USING (event_id)
"""


def made_events(seed: int = 5) -> dict[str, pa.Table]:
    """Five streams as they come: bursts of payments out of order, some too late, ties, moves, closed accounts, labels
    taken back.
    """
    rng = np.random.default_rng(seed)

    def within(since: timedelta = timedelta(0)) -> datetime:
        return START + since + float(rng.random()) * (timedelta(days=DAYS) - since)

    homes = {a: (float(rng.uniform(46, 54)), float(rng.uniform(-3, 14))) for a in ACCOUNTS}
    customers: list[dict[str, Any]] = []
    for number, account in enumerate(KNOWN):
        moves = [START - timedelta(days=9), *(within() for _ in range(number % 4))]
        for at in moves:
            row = {
                "event_timestamp": at, "account_id": account, "segment": ["student", "premium", "standard"][len(customers) % 3],
                "home_latitude": homes[account][0] + float(rng.normal(0, 0.4)) * (at > START), "home_longitude": homes[account][1],
                "email": f"{account}@secret.example", "phone": f"+49555{number:06d}", "name": f"Name Of {account}",
                "birth_date": "1970-01-01", "opened_at": START - timedelta(days=400 + number),
            }  # fmt: skip
            closed = at > START and rng.random() < 0.15
            customers.append(
                {"event_timestamp": at, "account_id": account, "deleted": True} if closed else row
            )
    merchants = [
        {"event_timestamp": at, "merchant_id": shop, "category": KINDS[(n + i) % len(KINDS)], "risk_tier": "low"}
        for n, shop in enumerate(SHOPS)
        for i, at in enumerate([START - timedelta(days=9), *([within()] if n < 3 else [])])
    ]  # fmt: skip
    payments: list[dict[str, Any]] = []
    while len(payments) < 2_400:
        account, at = ACCOUNTS[rng.integers(len(ACCOUNTS))], within()
        for _ in range(rng.integers(1, 12)):
            to = RECIPIENTS[rng.integers(len(RECIPIENTS))]
            spread = 2.0 if rng.random() < 0.2 else 0.15
            placed = rng.random() < 0.9
            payments.append(
                {
                    "event_timestamp": at, "account_id": account, "merchant_id": to, "amount": round(float(rng.lognormal(3, 1)), 2),
                    "type": "TRANSFER" if to in ACCOUNTS else "PAYMENT", "currency": "EUR", "device_id": f"d{rng.integers(5)}",
                    "latitude": homes[account][0] + float(rng.normal(0, spread)) if placed else None,
                    "longitude": homes[account][1] + float(rng.normal(0, spread)) if placed else None,
                    "delay": float(rng.uniform(0, 400)) + (float(rng.uniform(900, 5_000)) if rng.random() < 0.06 else 0.0),
                }
            )  # fmt: skip
            at += timedelta(seconds=float(rng.exponential(20))) * (rng.random() > 0.05)
    payments = [p for p in payments if p["event_timestamp"] < MIDNIGHT]
    for payment in payments:
        arrival = payment["event_timestamp"] + timedelta(seconds=payment.pop("delay"))
        payment["created_timestamp"] = arrival.replace(microsecond=arrival.microsecond // 1_000 * 1_000)
    payments.sort(key=lambda p: p["created_timestamp"])
    for number, payment in enumerate(payments):
        payment["event_id"] = f"p{number * 7_919 % 100_003:06d}"  # ids sort otherwise than times
    charges = [
        {
            "event_timestamp": p["event_timestamp"] + timedelta(seconds=float(rng.uniform(-2, 1))),
            "payment_id": p["event_id"],
            "card_network": ["visa", "amex"][n % 2],
            "entry_mode": ["chip", "ecommerce", "manual"][n % 3],
            "three_ds_result": "none",
            "issuer_country": "DE",
        }
        for n, p in enumerate(payments)
        if rng.random() < 0.8
    ]
    labels = []
    for payment in payments[::9]:
        at = payment["event_timestamp"] + timedelta(days=float(rng.uniform(0.1, 9)))
        for n in range(int(rng.integers(1, 4))):  # reported, withdrawn, reported again
            said = at + timedelta(days=3.5 * n)
            labels.append(
                {
                    "event_timestamp": said, "payment_id": payment["event_id"], "is_fraud": n % 2 == 0,
                    "fraud_type": "drain" if n % 2 == 0 else None, "labeler": "analyst", "label_id": f"{payment['event_id']}:{n}",
                }
            )  # fmt: skip
    stamped = PAYMENTS.schema.append(pa.field("created_timestamp", pa.timestamp("us", "UTC")))
    made = {"payments": pa.Table.from_pylist(payments, schema=stamped)}
    for name, rows, schema in (
        ("customers", customers, CUSTOMERS.schema),
        ("merchants", merchants, MERCHANTS.schema),
        ("charges", charges, CHARGES.schema),
        ("labels", labels, LABELS.schema),
    ):
        rows.sort(key=lambda row: row["event_timestamp"])
        made[name] = pa.Table.from_pylist(
            [{"event_id": f"{name}-{n}"} | row for n, row in enumerate(rows)], schema=schema
        )
    return made


class World:
    """The events, in the flows and in DuckDB; the repo applied with the views of the examples kept online."""

    def __init__(self, folder: Path) -> None:
        self.settings = FlowSettings()
        self.events = made_events()
        repo = folder / "feature_repo"
        shutil.copytree(REPO, repo, ignore=shutil.ignore_patterns("__pycache__"))
        for system in SYSTEMS:
            file = repo / "examples" / f"{system}.py"
            file.write_text(file.read_text().replace("    online=False,\n", ""))
        feast(RepoSettings(), "apply", repo=repo)
        self.repo = repo
        self.views = read_views(self.settings.home / "views.json")
        for stream in ("customers", "merchants", "charges", "payments", "labels"):
            run(stream, self.with_file(self.settings, stream))
        self.store: FeatureStore = open_store(RepoSettings(), repo)
        self.sql = duckdb.connect()
        self.sql.execute(METRES)
        for name, table in self.events.items():
            rows = table.append_column("arrived", pa.array(np.arange(table.num_rows)))
            self.sql.register("raw", rows)
            self.sql.execute(
                f"CREATE TABLE {name} AS SELECT *, make_timestamp(epoch_us(event_timestamp)) AS t FROM raw"
            )
        # Too late: more than ten minutes behind the newest payment that came before.
        self.sql.execute("""
            DELETE FROM payments WHERE event_id IN (
                SELECT event_id FROM payments
                QUALIFY t < max(t) OVER (ORDER BY arrived ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - INTERVAL 10 MINUTE)""")
        self.sql.execute("""
            CREATE TABLE enriched AS
            SELECT p.*, c.home_latitude, c.home_longitude, c.segment AS customer_segment, m.category AS merchant_category,
                metres(p.latitude, p.longitude, c.home_latitude, c.home_longitude) AS distance
            FROM payments p
            ASOF LEFT JOIN customers c ON p.account_id = c.account_id AND p.t >= c.t
            ASOF LEFT JOIN merchants m ON p.merchant_id = m.merchant_id AND p.t >= m.t""")

    def with_file(self, settings: FlowSettings, stream: str) -> FlowSettings:
        path = settings.home / f"{stream}.parquet"
        pq.write_table(self.events[stream], path)
        return settings.model_copy(update={"source_files": str(path)})

    def offline(self, service: str, rows: str | pd.DataFrame = ROWS) -> pd.DataFrame:
        return self.store.get_historical_features(rows, self.store.get_feature_service(service)).to_df()

    def expected(self, query: str) -> pd.DataFrame:
        return self.sql.sql(query).df()

    def reader(self, service: str) -> Reader:
        return Reader(compile_plan(self.store, service, self.repo), self.repo)

    def accepted(self) -> int:
        ((n,),) = self.sql.sql("SELECT count(*) FROM payments").fetchall()
        return int(n)


@pytest.fixture(scope="module")
def world(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("five-systems")
    (folder / "home").mkdir()
    patch.setenv("MILLSTREAM_HOME", str(folder / "home"))
    patch.setenv("MILLSTREAM_PSEUDONYM_KEY", KEY)
    patch.setenv("REDIS_URL", redis_url)
    redis.Redis.from_url(redis_url).flushall()
    yield World(folder)
    patch.undo()


def assert_same(got: pd.DataFrame, want: pd.DataFrame) -> None:
    """Every value of `want`, payment by payment: what is counted or copied exactly, the rest but for rounding; metres
    as good as the SQL's.
    """
    got, want = (frame.set_index("event_id").sort_index() for frame in (got, want))
    assert got.index.equals(want.index)
    for name in want:
        ours, theirs = got[name], want[name]
        assert (ours.isna() == theirs.isna()).all(), name
        assert theirs.nunique() > 1 or name in {"three_ds_result", "issuer_country"}, f"{name} says nothing"
        if not pd.api.types.is_numeric_dtype(theirs):
            assert (ours.dropna() == theirs.dropna()).all(), name
            continue
        left, right = ours.to_numpy(float), theirs.to_numpy(float)
        far = "distance" in name
        close = np.isclose(left, right, rtol=1e-4 if far else 1e-9, atol=0.5 if name.endswith("_m") else 1e-4 if far else 1e-7, equal_nan=True)  # fmt: skip
        if pd.api.types.is_integer_dtype(theirs):
            close = left == right
        assert close.all(), (name, left[~close][:3], right[~close][:3])


def score(client: redis.Redis, reader: Reader, row: dict[str, Any], at: datetime) -> Vector:
    replies = [client.hmget(key, fields) for key, fields in reader.commands(row)]
    return reader.vector(row, replies, int(at.timestamp() * 1e6), time.time_ns() // 1_000)


def after_all(world: World) -> tuple[pd.DataFrame, datetime]:
    """A payment of every account, as it would be a minute after the last event."""
    last = world.sql.sql("SELECT epoch_us(max(t)) FROM payments").fetchall()[0][0]
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=last, seconds=60)
    rows = world.store.get_historical_features(ROWS, ["account_recent:account_payment_count_1m"]).to_df()
    rows = rows.sort_values("event_timestamp").groupby("account_id").tail(1).drop(columns="account_payment_count_1m")  # fmt: skip
    return rows.assign(event_timestamp=at).astype(object).where(rows.notna(), None), at


def bits(values: list[Any]) -> bytes:
    return np.array([np.nan if v is None else v for v in values], np.float64).tobytes()


def test_late_payments_are_the_ones_sql_calls_late(world: World) -> None:
    n = world.events["payments"].num_rows
    assert 10 < n - world.accepted() < 200
    assert log_rows(world.settings).num_rows == world.accepted()
    assert {row["reason"] for row in dead_letter_rows(world.settings)} == {"late"}
    ((borderline,),) = world.sql.sql("SELECT count(*) FROM enriched WHERE abs(distance - 50000) < 1").fetchall()  # fmt: skip
    assert borderline == 0, "what is far is not for the precision of a formula to decide"


def test_proton_all_its_features_as_of_the_payment(world: World) -> None:
    assert_same(world.offline("proton"), world.expected(PROTON))


@pytest.mark.parametrize("cutoff", [MIDNIGHT - timedelta(days=12), MIDNIGHT - timedelta(days=6)])
def test_proton_labels_are_what_was_last_said_by_the_cut_off(world: World, cutoff: datetime) -> None:
    ids = log_rows(world.settings)["event_id"]
    known_at = pa.array([cutoff] * len(ids), pa.timestamp("us", "UTC"))
    said = read_label_view(world.store, "fraud_label", ids, known_at).append_column("event_id", ids)
    want = world.expected(f"""
        SELECT p.event_id, arg_max(l.is_fraud, l.t) AS is_fraud FROM payments p
        LEFT JOIN labels l ON l.payment_id = p.event_id AND l.t <= TIMESTAMP '{cutoff.replace(tzinfo=None)}'
        GROUP BY p.event_id""")
    assert_same(said.select(["event_id", "is_fraud"]).to_pandas(), want)


def test_proton_a_label_taken_back_is_honest_from_then_on(world: World) -> None:
    ((payment, withdrawn),) = world.sql.sql(
        "SELECT payment_id, epoch_us(t) FROM labels WHERE NOT is_fraud LIMIT 1"
    ).fetchall()
    at = pa.array([withdrawn - 1, withdrawn], pa.timestamp("us", "UTC"))
    said = read_label_view(world.store, "fraud_label", pa.chunked_array([[payment] * 2]), at)
    assert said["is_fraud"].to_pylist() == [True, False]


def test_feldera_windows_with_the_payment_itself(world: World) -> None:
    assert_same(world.offline("feldera"), world.expected(FELDERA))


def test_feldera_stopped_anywhere_the_online_output_is_that_of_one_batch(
    world: World, redis_url: str, tmp_path: Path
) -> None:
    """A bus, a flow and a store of its own; killed seven times, at random."""
    rng = np.random.default_rng(11)
    database = f"{redis_url.rstrip('/')}/1"
    client = redis.Redis.from_url(database)
    client.flushdb()
    (tmp_path / "home").mkdir()
    settings = world.settings.model_copy(
        update={"home": tmp_path / "home", "redis_url": database, "bus_partitions": 1, "epoch_ms": 100}
    )
    needed = [s for s in world.views.streams["payments"] if s.name in {"account_recent", "account_behaviour", "account_position"}]  # fmt: skip
    profile = [p for p in world.views.plain["customers"] if p.name == "account_profile"]
    write_views(
        settings.home / "views.json",
        AppliedViews(world.views.project, {"payments": tuple(needed)}, {"customers": tuple(profile)}),
    )
    run("customers", world.with_file(settings, "customers"))
    events = world.events["payments"].to_pylist()
    stops = {*map(int, rng.choice(len(events), 7, replace=False))}
    kills = done = 0
    with running_flow(settings) as flow:
        for n, event in enumerate(events):
            accepted_ms = int(event.pop("created_timestamp").timestamp() * 1_000)
            plain = {k: v for k, v in event.items() if v is not None}
            plain["event_timestamp"] = event["event_timestamp"].isoformat()
            client.xadd("millstream:payments:0", {"v": encoded(plain)}, id=f"{accepted_ms}-{n}")
            if n in stops:
                kills += 1
                if kills % 2:  # some while it works, some while it starts
                    flow.wait_for(lambda: events_written(settings) > done)  # noqa: B023
                time.sleep(float(rng.uniform(0, 0.8)))
                flow.kill()
                done = events_written(settings)
                flow.restart()
        flow.wait_for_events(len(events))
        rows, at = after_all(world)
        reader = world.reader("feldera")
        asked = rows.to_dict("records")

        def seen() -> int:
            return sum(score(client, reader, row, at).versions["account_recent"] for row in asked)

        flow.wait_for(lambda: seen() == world.accepted())
    batch = world.offline("feldera", rows)
    for row, want in zip(asked, batch[list(reader.plan.feature_names)].to_numpy(), strict=True):
        assert score(client, reader, row, at).values.tobytes() == bits(list(want)), row["account_id"]
    assert batch["account_far_count_1d_incl"].max() > 0


def test_deltastream_recipients_and_charges_as_of_the_payment(world: World) -> None:
    assert_same(world.offline("deltastream"), world.expected(DELTASTREAM))


def test_deltastream_the_log_has_the_charge_in_place_of_its_id_and_nobody_s_name(world: World) -> None:
    log = log_rows(world.settings)
    want = world.expected("""
        SELECT p.event_id, c.segment AS customer_segment, h.card_network, h.entry_mode FROM payments p
        ASOF LEFT JOIN customers c ON p.account_id = c.account_id AND p.t >= c.t
        ASOF LEFT JOIN charges h ON h.payment_id = p.event_id AND p.t >= h.t""")
    assert_same(log.select(list(want.columns)).to_pandas(), want)
    assert {"email", "phone", "name", "birth_date"}.isdisjoint(log.column_names)
    personal = {*ACCOUNTS, *SHOPS}
    for column in ("email", "phone", "name"):
        personal |= set(world.events["customers"][column].drop_null().to_pylist())
    for path in sorted(world.settings.log_dir.rglob("*.parquet")):
        table = pq.read_table(path)
        for column in table.column_names:
            if pa.types.is_string(table.schema.field(column).type):
                kept = set(pc.unique(table[column]).to_pylist())
                assert kept.isdisjoint(personal), (path.parent.name, column)
    pseudonyms = Pseudonyms.from_setting(KEY)
    assert set(log["account_id"].to_pylist()) <= {pseudonyms.of(a, PARTY) for a in ACCOUNTS}


def test_irori_normalised_with_what_was_known_at_the_payment(world: World) -> None:
    assert_same(world.offline("irori"), world.expected(IRORI))


def test_irori_training_and_scoring_divide_by_the_same_number(world: World) -> None:
    rows, at = after_all(world)
    client = redis.Redis.from_url(world.settings.redis_url)
    reader = world.reader("irori")
    names = list(reader.plan.feature_names)
    history = world.offline("irori", rows)
    asked = [r for r in rows.to_dict("records") if r["merchant_category"] is not None]
    trained = history[history["merchant_category"].notna()][names].to_numpy()
    wanted = (*reader.plan.entity_columns, *(name for name, _ in reader.plan.request))
    assert len(asked) > 10
    for row, want in zip(asked, trained, strict=True):
        assert score(client, reader, row, at).values.tobytes() == bits(list(want))
        with as_of(at):
            got = world.store.get_online_features(
                world.store.get_feature_service("irori"), [{c: row[c] for c in wanted}]
            ).to_dict()
        assert bits([got[name][0] for name in names]) == bits(list(want))
    assert not np.isnan(history["amount_in_category"].to_numpy(float)).all()


@pytest.mark.parametrize("language", ["python", "sql"])
def test_the_page_quotes_the_code_as_it_is(language: str) -> None:
    there = [*(REPO / "examples").rglob("*.py")] if language == "python" else [Path(__file__)]
    lines = {line.strip() for path in there for line in path.read_text().splitlines()}
    quoted = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(quoted) >= len(SYSTEMS)
    for line in "".join(quoted).splitlines():
        assert line.strip() in {"", "..."} or line.strip() in lines, line
