"""Customers, merchants and charges: kept by their flows as Feast feature views, the newest version online, every
version offline.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureStore

from feature_repo.settings import RepoSettings
from feature_repo.stores.applied_views import AppliedViews, PlainSpec, read_views, write_views
from feature_repo.stores.online.plain_writer import PlainProjection, projected_key
from feature_repo.stores.open_store import REPO, open_store
from feature_repo.stores.reader.plan import compile_plan
from feature_repo.stores.reader.reader import Reader
from feature_repo.stores.redis_layout.keys import encode_timestamp, key_prefix, key_values, time_field
from feature_repo.streams.charges import CHARGES
from feature_repo.streams.customers import CUSTOMERS
from feature_repo.streams.merchants import MERCHANTS
from flows import backfill_files
from flows.accept.decode import Decoder
from flows.accept.normalize_changelog import ChangelogNormalizer
from flows.blocks import Events, RawBlock
from flows.bootstrap import run
from flows.online.plain_sink import PlainViews
from flows.settings import FlowSettings
from flows.streams import EventStream
from tests.kits.applied_home import feast
from tests.kits.flow_output import dead_letter_rows
from tests.kits.flow_process import running_flow
from tests.kits.payments import write_lines

START = datetime(2026, 11, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
HOUR = timedelta(hours=1)
MILLISECOND = timedelta(milliseconds=1)
PROFILE = (
    "account_profile:home_latitude",
    "account_profile:customer_segment",
    "account_profile:customer_opened_at",
)
OFF_LINE = """
from datetime import timedelta

from feast import FeatureView, Field, StreamFeatureView
from feast.aggregation import Aggregation
from feast.types import Int64, String

from entities import account
from sources import customers, customers_log

segment_history = FeatureView(
    name="segment_history", entities=[account], source=customers_log, online=False,
    schema=[Field(name="account_id", dtype=String), Field(name="customer_segment", dtype=String)],
)
account_moves = StreamFeatureView(
    name="account_moves", entities=[account], source=customers, online=False, timestamp_field="event_timestamp",
    aggregations=[Aggregation(name="moves_1d", function="count", column="event_id", time_window=timedelta(days=1))],
    schema=[Field(name="moves_1d", dtype=Int64)],
)
"""
SERVICES = """
from feast import FeatureService

from views.account_profile import account_profile
from views.charge import charge
from views.merchant_profile import merchant_profile

parties = FeatureService(name="parties", features=[account_profile, merchant_profile, charge])
"""


def customer(number: int, account: str, at: datetime, **changes: Any) -> dict[str, Any]:
    """A version of a customer as the JSON object on the bus."""
    version = {
        "event_id": f"c{number:06d}",
        "event_timestamp": at.isoformat(),
        "account_id": account,
        "home_latitude": 47.0 + number % 7,
        "home_longitude": 8.5,
        "email": f"{account}@example.org",
        "phone": "+41790000000",
        "name": "Nobody Else",
        "birth_date": "1990-02-28",
        "segment": "standard",
        "opened_at": "2020-01-02T03:04:05.678Z",
    }
    return version | changes


def merchant(number: int, name: str, at: datetime, **changes: Any) -> dict[str, Any]:
    version = {
        "event_id": f"m{number:06d}",
        "event_timestamp": at.isoformat(),
        "merchant_id": name,
        "category": "grocery",
        "latitude": 47.0,
        "longitude": 8.0,
        "risk_tier": "low",
        "opened_at": "2019-01-01T00:00:00Z",
    }
    return version | changes


def charge(number: int, payment: str, at: datetime, **changes: Any) -> dict[str, Any]:
    event = {
        "event_id": f"h{number:06d}",
        "event_timestamp": at.isoformat(),
        "payment_id": payment,
        "card_network": "visa",
        "entry_mode": "chip",
        "three_ds_result": None,
        "issuer_country": "CH",
    }
    return event | changes


def deletion(number: int, account: str, at: datetime) -> dict[str, Any]:
    """As a careless producer sends it: with what was true before."""
    return customer(number, account, at, deleted=True)


def deliver(
    client: redis.Redis, stream: EventStream, events: Sequence[dict[str, Any]], first_ms: int = START_MS
) -> None:
    """Put events on the stream's bus, accepted one per millisecond from then on."""
    with client.pipeline(transaction=False) as pipe:
        for i, event in enumerate(events):
            pipe.xadd(
                f"millstream:{stream.name}:0", {"v": json.dumps(event).encode()}, id=f"{first_ms + i}-0"
            )
        pipe.execute()


def log_of(stream: EventStream, settings: RepoSettings) -> pa.Table:
    files = sorted((settings.log_dir / stream.name).glob("*.parquet"))
    return pa.concat_tables([pq.read_table(f) for f in files]) if files else pa.table({"event_id": []})


def run_lines(
    settings: FlowSettings, stream: EventStream, path: Path, events: Sequence[dict[str, Any]]
) -> None:
    lines = write_lines(path, [json.dumps(event).encode() for event in events])
    run(stream.name, settings.model_copy(update={"source_files": settings.join_files([lines])}))


def flow_until(settings: FlowSettings, stream: EventStream, count: int) -> None:
    """Run a stream's flow on the bus until so many of its events are published."""
    with running_flow(settings, stream.name) as process:
        process.wait_for(lambda: log_of(stream, settings).num_rows >= count)


class Applied:
    """The repo's changelog views, applied once; each test has its own project home on the same definitions."""

    def __init__(self, home: Path, repo: Path) -> None:
        self.home = home
        self.repo = repo
        self.views = read_views(home / "views.json")

    def plain(self, name: str) -> PlainSpec:
        return next(spec for specs in self.views.plain.values() for spec in specs if spec.name == name)


@pytest.fixture(scope="module")
def applied(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """A repo of nothing but these views: what others add to the real one does not matter here."""
    repo = tmp_path_factory.mktemp("repo") / "feature_repo"
    (repo / "views").mkdir(parents=True)
    for name in ("feature_store.yaml", ".feastignore", "entities.py", "sources.py"):
        shutil.copy(REPO / name, repo / name)
    for name in ("account_profile", "customers", "merchant_profile", "charge"):
        shutil.copy(REPO / "views" / f"{name}.py", repo / "views")
    (repo / "views" / "off_line.py").write_text(OFF_LINE)
    (repo / "services.py").write_text(SERVICES)
    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setenv("MILLSTREAM_HOME", str(home))
    patch.setenv("REDIS_URL", redis_url)
    feast(RepoSettings(), "apply", repo=repo)
    patch.undo()
    return Applied(home, repo)


@pytest.fixture
def flow(applied: Applied, home: Path, clean_redis: redis.Redis) -> FlowSettings:
    """Settings of a flow in an empty home, with the views of the last apply."""
    write_views(home / "views.json", applied.views)
    return FlowSettings(epoch_ms=100)


@pytest.fixture
def store(
    applied: Applied, clean_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FeatureStore]:
    """Feast over the applied home, whose logs are emptied afterwards."""
    monkeypatch.setenv("MILLSTREAM_HOME", str(applied.home))
    monkeypatch.setenv("MILLSTREAM_PSEUDONYM_KEY", "off")
    yield open_store(RepoSettings(), applied.repo)
    for name in ("log", "staging", "recovery", "checkpoints", "dead_letters"):
        shutil.rmtree(applied.home / name, ignore_errors=True)


def online(store: FeatureStore, features: Sequence[str], **key: str) -> dict[str, Any]:
    got = store.get_online_features(list(features), [key]).to_dict()
    return {name.split(":")[-1]: values[0] for name, values in got.items() if name not in key}


def stored(client: redis.Redis) -> dict[bytes, dict[bytes, bytes]]:
    """Every entity's hash, byte for byte."""
    return {key: client.hgetall(key) for key in client.scan_iter() if not key.startswith(b"millstream:")}  # type: ignore[misc]


def test_apply_writes_down_the_plain_views_over_logs(applied: Applied) -> None:
    assert {stream: [spec.name for spec in specs] for stream, specs in applied.views.plain.items()} == {
        "charges": ["charge"],
        "customers": ["account_profile", "customers"],
        "merchants": ["merchant_profile"],
    }
    profile = applied.plain("account_profile")
    assert profile.key_columns == ("account_id",)
    assert [(column, kind) for column, kind, _ in profile.features] == [
        ("home_latitude", "double"),
        ("home_longitude", "double"),
        ("segment", "string"),
        ("opened_at", "unix_timestamp"),
    ]
    assert applied.plain("charge").ttl_us == 7 * 86_400_000_000


def test_views_with_online_false_are_computed_off_line_only(
    store: FeatureStore, applied: Applied, clean_redis: redis.Redis, tmp_path: Path
) -> None:
    assert applied.views.streams == {}
    run_lines(FlowSettings(), CUSTOMERS, tmp_path / "c.jsonl", [customer(1, "a1", START)])
    rows = pd.DataFrame({"account_id": ["a1"], "event_timestamp": [START + HOUR]})
    features = ["account_moves:moves_1d", "segment_history:customer_segment"]
    history = store.get_historical_features(rows, features).to_df()
    assert history[["moves_1d", "customer_segment"]].to_numpy().tolist() == [[1, "standard"]]
    (fields,) = stored(clean_redis).values()
    assert not any(b"account_moves" in field or b"segment_history" in field for field in fields)


def test_newest_version_is_on_line_and_each_one_is_true_in_its_time(
    store: FeatureStore, clean_redis: redis.Redis
) -> None:
    settings = FlowSettings(epoch_ms=100)
    moved = customer(2, "a1", START + HOUR, home_latitude=60.0, segment="premium")
    events = [
        customer(1, "a1", START, home_latitude=47.0),
        customer(3, "a2", START, home_latitude=10.0),
        moved,
        moved | {"event_id": "c000004", "segment": "business"},  # a correction of the same instant
        deletion(5, "a2", START + 2 * HOUR),
        customer(6, "a3", START + 3 * HOUR, segment=None),
    ]
    for first, last, hours in (
        (0, 2, 0),
        (2, 4, 1),
        (4, 5, 2),
        (5, 6, 3),
    ):  # accepted as they happen, but one a millisecond
        deliver(clean_redis, CUSTOMERS, events[first:last], START_MS + hours * 3_600_000)
    flow_until(settings, CUSTOMERS, len(events))

    opened = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    corrected = {"home_latitude": 60.0, "customer_segment": "business", "customer_opened_at": opened}
    nothing = dict.fromkeys(corrected)
    assert online(store, PROFILE, account_id="a1") == corrected
    assert online(store, PROFILE, account_id="a2") == nothing
    assert online(store, PROFILE, account_id="a3")["customer_segment"] is None

    asked = [
        ("a1", START - timedelta(microseconds=1), None, None),
        ("a1", START, 47.0, "standard"),
        ("a1", START + HOUR - timedelta(microseconds=1), 47.0, "standard"),
        ("a1", START + HOUR, 60.0, "premium"),
        ("a1", START + HOUR + MILLISECOND, 60.0, "business"),
        ("a2", START, None, None),  # true by then, but accepted a millisecond later
        ("a2", START + MILLISECOND, 10.0, "standard"),
        ("a2", START + 2 * HOUR, None, None),
        ("nobody", START + 2 * HOUR, None, None),
    ]
    rows = pd.DataFrame(asked, columns=["account_id", "event_timestamp", "latitude", "segment"])
    history = store.get_historical_features(rows, list(PROFILE)).to_df().replace({np.nan: None})
    assert history["home_latitude"].tolist() == [latitude for _, _, latitude, _ in asked]
    assert history["customer_segment"].tolist() == [segment for _, _, _, segment in asked]
    assert history["customer_opened_at"].tolist()[1] == opened


def test_personal_columns_are_not_in_the_log(flow: FlowSettings, tmp_path: Path) -> None:
    run_lines(flow, CUSTOMERS, tmp_path / "c.jsonl", [customer(1, "a1", START)])
    (row,) = log_of(CUSTOMERS, flow).to_pylist()
    assert row["account_id"] == "a1"
    assert row.keys().isdisjoint({"name", "birth_date"})


def test_history_equals_an_asof_join_of_the_log(store: FeatureStore, tmp_path: Path) -> None:
    settings = FlowSettings()
    rng = random.Random(7)
    at, versions = START, []
    for number in range(3_000):
        at += timedelta(seconds=rng.choice([0, 1, 30]))
        account, when = f"a{rng.randrange(60)}", at - timedelta(seconds=rng.choice([0, 0, 200]))
        made = deletion(number, account, when) if rng.random() < 0.1 else customer(number, account, when)
        versions.append(made | {"segment": rng.choice(["student", "premium", None])})
    run_lines(settings, CUSTOMERS, tmp_path / "c.jsonl", versions)
    span = int((at - START).total_seconds())
    rows = pd.DataFrame(
        {
            "account_id": [f"a{rng.randrange(65)}" for _ in range(2_000)],
            "event_timestamp": [START + timedelta(seconds=rng.randrange(-60, span)) for _ in range(2_000)],
        }
    )
    rows["event_timestamp"] = rows["event_timestamp"].astype("datetime64[us, UTC]")
    history = store.get_historical_features(rows, list(PROFILE)).to_df()
    latest = f"""
        SELECT *, epoch_us(event_timestamp) AS t FROM read_parquet('{settings.log_dir}/customers/*.parquet')
        QUALIFY row_number() OVER (PARTITION BY account_id, event_timestamp
                                   ORDER BY created_timestamp DESC, source_offset DESC) = 1"""
    with duckdb.connect() as connection:
        connection.register("asked", rows.assign(n=range(len(rows))))
        expected = connection.sql(
            f"""SELECT home_latitude, segment, epoch_us(opened_at) AS opened, deleted
                FROM (SELECT *, epoch_us(event_timestamp) AS t FROM asked) a
                ASOF LEFT JOIN ({latest}) c ON a.account_id = c.account_id AND a.t >= c.t ORDER BY n"""
        ).df()
    assert expected["deleted"].eq(True).sum() > 100
    assert history["home_latitude"].equals(expected["home_latitude"])
    assert history["customer_segment"].fillna("").tolist() == expected["segment"].fillna("").tolist()
    opened = [None if pd.isna(v) else v.value // 1000 for v in history["customer_opened_at"]]
    assert opened == [None if pd.isna(v) else int(v) for v in expected["opened"]]
    assert expected.loc[expected["deleted"].eq(True), ["home_latitude", "segment"]].isna().all(axis=None)


def test_log_that_does_not_exist_yet_gives_nulls(store: FeatureStore) -> None:
    rows = pd.DataFrame({"payment_id": ["p1"], "event_timestamp": [START]})
    assert store.get_historical_features(rows, ["charge:entry_mode"]).to_df()["entry_mode"].isna().all()


def test_later_event_time_wins_whichever_came_first(
    flow: FlowSettings, store: FeatureStore, clean_redis: redis.Redis
) -> None:
    settings = FlowSettings(epoch_ms=100)
    late = START + timedelta(minutes=9)
    events = [
        merchant(1, "m1", late, risk_tier="high"),
        merchant(2, "m1", START, risk_tier="low"),
        merchant(3, "m2", START, risk_tier="low"),
        merchant(4, "m2", late, risk_tier="high"),
    ]
    deliver(clean_redis, MERCHANTS, events[:1], START_MS + 600_000)
    flow_until(settings, MERCHANTS, 1)
    deliver(clean_redis, MERCHANTS, events[1:], START_MS + 700_000)
    flow_until(settings, MERCHANTS, 4)
    tier = "merchant_profile:merchant_risk_tier"
    assert [online(store, [tier], merchant_id=m)["merchant_risk_tier"] for m in ("m1", "m2")] == [
        "high",
        "high",
    ]
    first, second = START + 600_000 * MILLISECOND, START + 700_000 * MILLISECOND
    asked = [
        ("m1", late, None),  # what was accepted later is not seen
        ("m1", first, "high"),
        ("m1", second + MILLISECOND, "high"),  # an earlier version came, and changes nothing
        ("m2", second, None),
        ("m2", second + MILLISECOND, "low"),
        ("m2", second + 2 * MILLISECOND, "high"),
    ]
    rows = pd.DataFrame(asked, columns=["merchant_id", "event_timestamp", "tier"])
    history = store.get_historical_features(rows, [tier]).to_df().replace({np.nan: None})
    assert history["merchant_risk_tier"].tolist() == [wanted for _, _, wanted in asked]


def test_version_later_than_the_lateness_is_a_dead_letter(flow: FlowSettings, tmp_path: Path) -> None:
    events = [merchant(1, "m1", START + HOUR), merchant(2, "m2", START), merchant(1, "m1", START + HOUR)]
    run_lines(flow, MERCHANTS, tmp_path / "m.jsonl", events)
    assert sorted(letter["reason"] for letter in dead_letter_rows(flow, "merchants")) == ["duplicate", "late"]
    assert log_of(MERCHANTS, flow)["merchant_id"].to_pylist() == ["m1"]


@pytest.mark.parametrize(
    ("stream", "event", "field"),
    [
        (CUSTOMERS, customer(1, "a1", START, home_latitude=91.0), "home_latitude"),
        (CUSTOMERS, customer(1, "", START), "account_id"),
        (CUSTOMERS, customer(1, "a1", START, birth_date="28.2.1990"), "birth_date"),
        (CUSTOMERS, customer(1, "a1", START, segment="rich"), "segment"),
        (MERCHANTS, merchant(1, "m1", START, longitude=-180.5), "longitude"),
        (MERCHANTS, merchant(1, "m1", START, risk_tier="none"), "risk_tier"),
        (CHARGES, charge(1, "p" * 129, START), "payment_id"),
        (CHARGES, charge(1, "p1", START, entry_mode="swipe"), "entry_mode"),
        (CHARGES, charge(1, "p1", START, issuer_country="che"), "issuer_country"),
    ],
)
def test_version_that_breaks_a_rule_is_a_dead_letter(
    flow: FlowSettings, tmp_path: Path, stream: EventStream, event: dict[str, Any], field: str
) -> None:
    run_lines(flow, stream, tmp_path / "x.jsonl", [event])
    (letter,) = dead_letter_rows(flow, stream.name)
    assert letter["reason"] == "check"
    assert letter["detail"].startswith(field)


def expected_online(client: redis.Redis, views: AppliedViews, logs: dict[str, pa.Table]) -> dict[bytes, Any]:
    """The online store from the log, row by row and with Feast's own protobuf classes."""
    from feast.protos.feast.types.Value_pb2 import Value

    field_of = {
        "double": "double_val",
        "string": "string_val",
        "unix_timestamp": "unix_timestamp_val",
        "bool": "bool_val",
    }
    made: dict[bytes, dict[bytes, bytes]] = {}
    for stream, specs in views.plain.items():
        rows = logs.get(stream, pa.table({})).to_pylist()
        rows.sort(key=lambda r: (r["event_timestamp"], r["created_timestamp"], r["source_offset"]))
        for spec in specs:
            for row in rows:
                key = key_prefix(spec.join_keys) + key_values([row[c] for c in spec.key_columns])
                held = made.setdefault(key + views.project.encode(), {})
                for column, kind, field in spec.features:
                    value = row[column]
                    if kind == "unix_timestamp" and value is not None:
                        value = int(value.timestamp())
                    proto = Value() if value is None else Value(**{field_of[kind]: value})
                    held[bytes.fromhex(field)] = proto.SerializeToString()
                us = (row["event_timestamp"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
                held[time_field(spec.name)] = encode_timestamp(us)
    return made


def test_kills_leave_the_same_log_and_the_same_bytes(
    flow: FlowSettings, applied: Applied, clean_redis: redis.Redis
) -> None:
    rng = random.Random(11)
    events = []
    for number in range(4_000):
        at = START + timedelta(seconds=number * 2 - rng.choice([0, 0, 0, 300]))
        account = f"a{rng.randrange(150)}"
        events.append(
            deletion(number, account, at)
            if rng.random() < 0.1
            else customer(number, account, at, segment=rng.choice(["student", "premium"]))
        )
    small = flow.model_copy(update={"block_events": 50, "epoch_events": 200})
    first_ms = START_MS + 8_000_000
    for kills, until in enumerate((500, 1_500, 2_500, 3_300)):
        deliver(
            clean_redis, CUSTOMERS, events[kills * 1_000 : kills * 1_000 + 1_000], first_ms + kills * 1_000
        )
        flow_until(small, CUSTOMERS, until)
    flow_until(small, CUSTOMERS, len(events))

    rows = log_of(CUSTOMERS, flow)
    assert sorted(rows["event_id"].to_pylist()) == [event["event_id"] for event in events]
    assert stored(clean_redis) == expected_online(clean_redis, applied.views, {"customers": rows})


def test_bytes_are_those_feast_writes(
    store: FeatureStore, applied: Applied, clean_redis: redis.Redis, tmp_path: Path
) -> None:
    settings = FlowSettings()
    events = [customer(1, "a1", START), customer(2, "ä 2", START + HOUR, segment=None, home_latitude=0.0)]
    run_lines(settings, CUSTOMERS, tmp_path / "c.jsonl", events)
    ours = stored(clean_redis)
    clean_redis.flushall()
    frame = log_of(CUSTOMERS, settings).to_pandas()
    frame = frame.rename(columns={"segment": "customer_segment", "opened_at": "customer_opened_at"})
    for view in ("account_profile", "customers"):
        store.write_to_online_store(view, frame)
    assert len(ours) == 2
    assert stored(clean_redis) == ours


def test_reader_gives_what_feast_gives(
    store: FeatureStore, applied: Applied, clean_redis: redis.Redis, tmp_path: Path
) -> None:
    settings = FlowSettings()
    now = datetime.now(UTC)
    run_lines(settings, CUSTOMERS, tmp_path / "c.jsonl", [customer(1, "a1", now)])
    run_lines(settings, MERCHANTS, tmp_path / "m.jsonl", [merchant(1, "m1", now, risk_tier=None)])
    run_lines(
        settings, CHARGES, tmp_path / "h.jsonl", [charge(1, "p1", now), charge(2, "p2", now - 8 * 24 * HOUR)]
    )
    client: Any = clean_redis
    plan = compile_plan(store, "parties", applied.repo)
    reader = Reader(plan, applied.repo)
    for row in (
        {"account_id": "a1", "merchant_id": "m1", "payment_id": "p1"},
        {
            "account_id": "a2",
            "merchant_id": "m1",
            "payment_id": "p2",
        },  # a stranger, and a charge past its ttl
    ):
        replies = [client.hmget(key, fields) for key, fields in reader.commands(row)]
        us = time.time_ns() // 1000
        vector = reader.vector(row, replies, us, us)
        got = store.get_online_features(store.get_feature_service("parties"), [row]).to_dict()
        assert vector.named == {name: got[name][0] for name in vector.named}
        assert vector.named["merchant_opened_at"] == datetime(2019, 1, 1, tzinfo=UTC)
    assert vector.named["entry_mode"] is None
    assert np.isnan(vector.values[plan.feature_names.index("merchant_opened_at")])


def test_files_of_all_streams_run_in_one_command(
    store: FeatureStore, applied: Applied, clean_redis: redis.Redis, tmp_path: Path
) -> None:
    files = {
        "customers": [customer(n, f"a{n % 7}", START + n * HOUR) for n in range(50)],
        "merchants": [merchant(n, f"m{n % 5}", START + n * HOUR) for n in range(40)],
        "charges": [charge(n, f"p{n}", START + n * HOUR) for n in range(30)],
    }
    paths = {
        name: [write_lines(tmp_path / f"{name}.jsonl", [json.dumps(e).encode() for e in events])]
        for name, events in files.items()
    }
    settings = FlowSettings()
    for _ in range(2):  # the same files again add nothing
        counts = backfill_files.run(
            settings, charges=paths["charges"], merchants=paths["merchants"], customers=paths["customers"]
        )
        assert list(counts) == ["charges", "customers", "merchants"]
        assert [counts[name].logged for name in counts] == [30, 50, 40]
    logs = {stream.name: log_of(stream, settings) for stream in (CUSTOMERS, MERCHANTS, CHARGES)}
    assert stored(clean_redis) == expected_online(clean_redis, applied.views, logs)


def test_new_view_and_emptied_store_are_brought_up_to_date_from_the_log(
    flow: FlowSettings, applied: Applied, clean_redis: redis.Redis, tmp_path: Path
) -> None:
    fewer = AppliedViews(applied.views.project, {}, {"customers": (applied.plain("customers"),)})
    write_views(flow.home / "views.json", fewer)
    events = [customer(n, f"a{n % 7}", START + n * HOUR) for n in range(20)]
    run_lines(flow, CUSTOMERS, tmp_path / "c.jsonl", events)
    rows = {"customers": log_of(CUSTOMERS, flow)}
    assert stored(clean_redis) == expected_online(clean_redis, fewer, rows)

    write_views(flow.home / "views.json", applied.views)
    assert PlainViews(CUSTOMERS, flow).catch_up() == {"account_profile": 7}
    everything = expected_online(clean_redis, applied.views, rows)
    assert stored(clean_redis) == everything
    assert PlainViews(CUSTOMERS, flow).catch_up() == {}

    (file,) = (flow.log_dir / "customers").iterdir()
    pq.write_table(pq.read_table(file).drop_columns(["phone"]), file)  # as if it were older than the column
    clean_redis.flushall()
    assert PlainViews(CUSTOMERS, flow).catch_up() == {"account_profile": 7, "customers": 7}
    assert stored(clean_redis) == everything

    write_views(flow.home / "views.json", fewer)  # while a view is not applied, it misses rows
    PlainViews(CUSTOMERS, flow).catch_up()
    assert set(clean_redis.hkeys(projected_key(fewer.project))) == {b"customers"}  # type: ignore[arg-type]


def projection(client: redis.Redis, spec: PlainSpec, stream: EventStream) -> PlainProjection:
    return PlainProjection(client, "millstream", spec, stream.log_schema)


def table(stream: EventStream, events: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_batches(
        [settled(stream, events).rows.select([*stream.schema.names, "created_timestamp"])]
    )


def settled(stream: EventStream, events: Sequence[dict[str, Any]]) -> Events:
    payloads = [json.dumps(event).encode() for event in events]
    block = RawBlock("bus:x:0", -1, np.arange(len(events)), np.arange(len(events)), payloads)
    return ChangelogNormalizer(stream)(Decoder(stream)(block))


def test_key_of_a_view_with_a_ttl_expires_unless_something_lasting_lives_there(
    applied: Applied, clean_redis: redis.Redis
) -> None:
    view = projection(clean_redis, applied.plain("charge"), CHARGES)
    week = 7 * 86_400
    rows = view.rows(table(CHARGES, [charge(1, "p1", START), charge(2, "p2", START), charge(3, "p3", START)]))
    keys = [key.decode() for key, _ in rows]
    clean_redis.hset(keys[1], "lasting", "x")
    clean_redis.hset(keys[2], "window", "x")
    clean_redis.expire(keys[2], 30 * 86_400)
    assert view.send(rows) == 3
    assert week - 5 < clean_redis.ttl(keys[0]) <= week  # type: ignore[operator]
    assert clean_redis.ttl(keys[1]) == -1
    assert clean_redis.ttl(keys[2]) > 29 * 86_400  # type: ignore[operator]


def test_view_without_a_ttl_makes_its_key_last(applied: Applied, clean_redis: redis.Redis) -> None:
    view = projection(clean_redis, applied.plain("merchant_profile"), MERCHANTS)
    rows = view.rows(table(MERCHANTS, [merchant(1, "m1", START)]))
    key = rows[0][0].decode()
    clean_redis.hset(key, "window", "x")
    clean_redis.expire(key, 60)
    view.send(rows)
    assert clean_redis.ttl(key) == -1


def test_older_row_changes_nothing_and_an_equal_time_overwrites(
    applied: Applied, clean_redis: redis.Redis
) -> None:
    view = projection(clean_redis, applied.plain("merchant_profile"), MERCHANTS)
    first = view.rows(table(MERCHANTS, [merchant(1, "m1", START, category="a")]))
    same = view.rows(table(MERCHANTS, [merchant(2, "m1", START, category="b")]))
    older = view.rows(table(MERCHANTS, [merchant(3, "m1", START - timedelta(microseconds=1))]))
    assert [view.send(rows) for rows in (first, same, older)] == [1, 1, 0]
    assert stored(clean_redis)[same[0][0]][view._writes.head[3]] == b"\x12\x01b"


def test_row_without_a_key_is_skipped(applied: Applied, clean_redis: redis.Redis) -> None:
    view = projection(clean_redis, applied.plain("merchant_profile"), MERCHANTS)
    rows = table(MERCHANTS, [merchant(1, "m1", START), merchant(2, "m2", START)])
    keys = pa.chunked_array([pa.array([None, "m2"])])
    rows = rows.set_column(rows.schema.get_field_index("merchant_id"), "merchant_id", keys)
    assert len(view.rows(rows)) == 1


def test_deleted_row_says_nothing_else_and_times_are_whole_seconds() -> None:
    made = settled(
        CUSTOMERS, [deletion(1, "a1", START + timedelta(microseconds=7)), customer(2, "a2", START)]
    ).rows.to_pylist()
    gone = {name: value for name, value in made[0].items() if value is not None}
    assert gone.keys() == {
        "event_id", "event_timestamp", "account_id", "deleted",
        "created_timestamp", "source_partition", "source_offset",
    }  # fmt: skip
    assert made[0]["event_timestamp"] == START + timedelta(microseconds=7)
    assert [row["deleted"] for row in made] == [True, False]
    assert made[1]["opened_at"] == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
