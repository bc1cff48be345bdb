"""Live, history and scorer give the same vector: the two Feast stores and the compiled reader on one applied repo."""

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import redis
from click.testing import CliRunner
from feast import FeatureStore
from feast.cli.cli import cli

from feature_repo.errors import DefinitionError, OfflineStoreError, OnlineStoreError
from feature_repo.settings import RepoSettings
from feature_repo.stores.clock import as_of
from feature_repo.stores.open_store import REPO, config_file, open_store
from feature_repo.stores.reader.plan import Plan, compile_plan
from feature_repo.stores.reader.reader import Reader, Vector
from feature_repo.windows.kernels.read_state import read_words
from flows.generate.history import generate
from tests.kits.applied_home import feast, log_payments, project

NOW = datetime.now(UTC)
START = NOW - timedelta(days=20)
SERVICE = "fraud_detection_v1"


class World:
    """One applied repo with 6,000 logged and projected payments, shared by the tests of this module."""

    def __init__(self, settings: RepoSettings) -> None:
        self.settings = settings
        feast(settings, "apply")
        self.payments = generate(3, START, days=20, accounts=150, merchants=30, payments=6000).payments
        times = [*self.payments["event_timestamp"].to_pylist()[:-1], NOW]  # the last one happens now
        self.payments = self.payments.set_column(
            1, "event_timestamp", pa.array(times, pa.timestamp("us", "UTC"))
        )
        log_payments(settings, self.payments)
        project(settings, self.payments)
        self.store: FeatureStore = open_store(settings)
        self.service = self.store.get_feature_service(SERVICE)
        self.plan = compile_plan(self.store, SERVICE)
        self.reader = Reader(self.plan, REPO)
        self.client = redis.Redis.from_url(settings.redis_url)

    def offline(self, rows: pd.DataFrame, **options: Any) -> pd.DataFrame:
        return self.store.get_historical_features(rows, self.service, **options).to_df()

    def online(self, row: dict[str, Any], t: datetime) -> dict[str, Any]:
        asked = {c: row[c] for c in (*self.plan.entity_columns, *(name for name, _ in self.plan.request))}
        with as_of(t):
            got = self.store.get_online_features(self.service, [asked]).to_dict()
        return {name: values[0] for name, values in got.items()}

    def score(self, row: dict[str, Any], t: datetime) -> Vector:
        us = pd.Timestamp(t).value // 1000
        replies = [self.client.hmget(key, fields) for key, fields in self.reader.commands(row)]
        return self.reader.vector(row, replies, us, time.time_ns() // 1000)


@pytest.fixture(scope="module")
def world(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MILLSTREAM_HOME", str(tmp_path_factory.mktemp("home")))
    patch.setenv("REDIS_URL", redis_url)
    redis.Redis.from_url(redis_url).flushall()
    yield World(RepoSettings())
    patch.undo()


def nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def test_online_features_at_t_equal_historical_features_at_t(world: World) -> None:
    rng = np.random.default_rng(5)
    rows = world.payments.take(rng.integers(0, world.payments.num_rows, 60)).to_pandas()
    end = world.payments["event_timestamp"][-1].as_py()
    rows["event_timestamp"] = [
        end + timedelta(microseconds=int(us))
        for us in rng.integers(-500_000_000, 40 * 86_400_000_000, len(rows))
    ]
    history = world.offline(rows)
    for row, expected in zip(rows.to_dict("records"), history.to_dict("records"), strict=True):
        t = row["event_timestamp"].to_pydatetime()
        live, scored = world.online(row, t), world.score(row, t)
        assert not scored.incomplete
        for name in world.plan.feature_names:
            assert same(nan(live[name]), nan(expected[name])), (name, row)
            assert same(scored.values[world.plan.feature_names.index(name)], nan(expected[name])), (name, row)


def test_scoring_before_or_after_ingestion_gives_the_same_vector(world: World) -> None:
    last = world.payments.slice(world.payments.num_rows - 1)
    row = last.to_pylist()[0]
    t = row["event_timestamp"]
    after = world.score(row, t)
    world.client.flushall()
    project(world.settings, world.payments.slice(0, world.payments.num_rows - 1))
    before = world.score(row, t)
    project(world.settings, world.payments)
    assert before.values.tobytes() == after.values.tobytes()
    assert before.versions["account_recent"] == after.versions["account_recent"] - 1


def test_rows_in_equal_rows_out_in_order_with_duplicates_unknown_entities_and_extra_columns(
    world: World,
) -> None:
    rows = world.payments.slice(2000, 50).to_pandas()
    rows = pd.concat([rows, rows.iloc[:5], rows.iloc[:1].assign(account_id="nobody")], ignore_index=True)
    rows["note"] = np.arange(len(rows))
    got = world.offline(rows)
    assert list(got["note"]) == list(rows["note"])
    assert (
        got.iloc[:5].drop(columns="note").equals(got.iloc[50:55].drop(columns="note").reset_index(drop=True))
    )
    assert (
        got.iloc[-1]["account_payment_count_30d"],
        math.isnan(got.iloc[-1]["account_amount_mean_30d"]),
    ) == (0, True)


def test_unknown_entity_counts_zero_online_too(world: World) -> None:
    row = {**world.payments.slice(0, 1).to_pylist()[0], "account_id": "nobody", "merchant_id": "nowhere"}
    live, scored = world.online(row, NOW), world.score(row, NOW)
    assert (
        live["account_payment_count_30d"],
        live["account_amount_sum_7d"],
        live["account_amount_mean_1d"],
    ) == (0, 0.0, None)
    assert not scored.incomplete
    assert scored.newest_us is None
    assert (
        scored.values.tobytes() == world.reader.empty(row, pd.Timestamp(NOW).value // 1000).values.tobytes()
    )


def test_a_row_without_a_key_is_null_in_every_feature_of_the_view_counts_too(world: World) -> None:
    whole = world.payments.slice(world.payments.num_rows - 1).to_pylist()[0]
    row = {**whole, "merchant_id": None}
    views = {r.spec.name: r.spec for r in world.plan.windowed}
    unknown = {n for s in views.values() if "merchant_id" in s.join_keys for n in s.feature_names}
    known = set(views["account_recent"].feature_names)
    assert known
    assert len(world.reader.commands(row)) < len(world.reader.commands(whole))
    scored, full = world.score(row, NOW), world.score(whole, NOW)
    live = world.online(row, NOW)
    history = world.offline(pd.DataFrame([whole, row])).to_dict("records")
    for got in (scored.named, live, history[1]):
        assert all(math.isnan(nan(got[name])) for name in unknown)
    for name in known:
        assert same(nan(full.named[name]), nan(scored.named[name]))
        assert same(nan(history[0][name]), nan(history[1][name]))
        assert same(nan(full.named[name]), nan(live[name]))
    absent = {c: v for c, v in row.items() if c != "merchant_id"}
    assert world.score(absent, NOW).values.tobytes() == scored.values.tobytes()
    many = world.store.get_online_features(
        ["merchant_hour:merchant_payment_count_1h"],
        [{"merchant_id": m} for m in (None, whole["merchant_id"], None)],
    ).to_dict()
    assert [v is None for v in many["merchant_payment_count_1h"]] == [True, False, True]


def test_a_read_too_far_in_the_past_is_null_and_named_never_silently_wrong(world: World) -> None:
    row = world.payments.slice(1000, 1).to_pylist()[0]
    scored = world.score(row, row["event_timestamp"])
    assert "account_recent" in scored.incomplete
    assert scored.named["account_payment_count_1d"] is None
    unknown = {**row, "account_id": "nobody"}  # who may have been somebody, and expired
    assert world.score(unknown, row["event_timestamp"]).named["account_payment_count_30d"] is None
    assert world.online(unknown, row["event_timestamp"])["account_payment_count_30d"] is None


def test_newest_event_time_is_readable_the_feast_way(world: World) -> None:
    account = world.payments["account_id"][-1].as_py()
    response = world.store.get_online_features(
        ["account_recent:account_payment_count_1h"], [{"account_id": account}]
    )
    newest = max(
        t
        for t, a in zip(
            world.payments["event_timestamp"].to_pylist(),
            world.payments["account_id"].to_pylist(),
            strict=True,
        )
        if a == account
    )
    assert response.proto.results[-1].event_timestamps[0].ToDatetime(tzinfo=UTC) == newest


def test_filter_by_created_timestamp_hides_payments_accepted_later(world: World, tmp_path: Path) -> None:
    late = world.payments.slice(3000, 1)
    row = late.to_pandas()
    row["event_timestamp"] += pd.Timedelta(minutes=1)
    by_event, by_both = world.offline(row), world.offline(row, filter_by_created_timestamp=True)
    assert by_event["account_payment_count_5m"][0] == by_both["account_payment_count_5m"][0] >= 1
    logged = world.settings.payments_log / "part-0.parquet"
    import pyarrow.parquet as pq

    table = pq.read_table(logged)
    created = table["created_timestamp"].to_pylist()
    created[3000] += timedelta(hours=1)
    pq.write_table(
        table.set_column(
            table.schema.get_field_index("created_timestamp"),
            "created_timestamp",
            pa.array(created, pa.timestamp("us", "UTC")),
        ),
        logged,
    )
    try:
        hidden = world.offline(row, filter_by_created_timestamp=True)
        assert hidden["account_payment_count_5m"][0] == by_event["account_payment_count_5m"][0] - 1
        assert world.offline(row)["account_payment_count_5m"][0] == by_event["account_payment_count_5m"][0]
    finally:
        pq.write_table(table, logged)


def test_entity_rows_can_be_sql_over_the_log(world: World) -> None:
    sql = "SELECT account_id, event_timestamp FROM payments ORDER BY event_timestamp LIMIT 7"
    got = world.store.get_historical_features(sql, ["account_recent:account_payment_count_1h"]).to_df()
    assert len(got) == 7


def test_full_feature_names_and_renamed_keys_work_as_in_feast(world: World) -> None:
    rows = world.payments.slice(5000, 3).to_pandas().rename(columns={"account_id": "payer"})
    view = (
        world.store.get_stream_feature_view("account_recent")
        .with_name("payer_recent")
        .with_join_key_map({"account_id": "payer"})
    )
    from feast import FeatureService

    service = FeatureService(name="renamed", features=[view[["account_payment_count_1d"]]])
    before = (world.settings.home / "views.json").read_text()
    world.store.apply([service])
    assert (world.settings.home / "views.json").read_text() == before  # a partial apply forgets no view
    got = world.store.get_historical_features(rows, service, full_feature_names=True).to_df()
    plain = world.offline(world.payments.slice(5000, 3).to_pandas())
    assert list(got["payer_recent__account_payment_count_1d"]) == list(plain["account_payment_count_1d"])


def test_partitions_of_the_key_space_change_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = world.payments.slice(4000, 40).to_pandas()
    whole = world.offline(rows)
    monkeypatch.setattr("feature_repo.stores.offline.point_in_time.point_in_time.__defaults__", (50_000,))
    assert world.offline(rows).equals(whole)


def test_missing_key_column_missing_time_and_missing_rows_say_what_to_do(world: World) -> None:
    rows = world.payments.slice(0, 2).to_pandas()
    with pytest.raises(OfflineStoreError, match="'merchant_id', a key of view"):
        world.offline(rows.drop(columns="merchant_id"))
    with pytest.raises(OfflineStoreError, match="entity row 1 has no event_timestamp"):
        world.offline(rows.assign(event_timestamp=[rows["event_timestamp"][0], pd.NaT]))
    with pytest.raises(OfflineStoreError, match="needs entity rows"):
        world.store.get_historical_features(None, world.service, start_date=START)


def test_push_to_a_windowed_view_is_refused_with_the_way_to_go(world: World) -> None:
    view = world.store.get_stream_feature_view("account_recent")
    with pytest.raises(OnlineStoreError, match=r"kept by the flow.*flows\.payments"):
        world.store._get_provider().online_write_batch(world.store.config, view, [], None)


def test_applying_twice_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(kind: str) -> str:
        """Feast's own command line, in this process: another one would spend seconds on importing Feast."""
        found = CliRunner().invoke(cli, ["-f", str(config_file(world.settings)), kind, "list"])
        assert found.exit_code == 0, found.output
        return found.output

    views = (world.settings.home / "views.json").read_text()
    again = feast(world.settings, "apply")
    assert (world.settings.home / "views.json").read_text() == views
    assert "Created" not in again
    monkeypatch.chdir(REPO)
    assert "payment_in_context" in listed("feature-views")
    windowed = listed("stream-feature-views")
    assert all(name in windowed for name in ("account_recent", "merchant_hour", "account_merchant"))


def test_plan_survives_its_file_and_needs_the_repo_it_was_made_from(world: World, tmp_path: Path) -> None:
    world.plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert (loaded, loaded.schema_hash) == (world.plan, world.plan.schema_hash)
    changed = tmp_path / "repo"
    functions = changed / "on_demand" / "functions"
    functions.mkdir(parents=True)
    for file in (REPO / "on_demand" / "functions").glob("*.py"):
        (functions / file.name).write_text(file.read_text().replace("hour >= 22", "hour >= 23"))
    with pytest.raises(DefinitionError, match="'payment_itself' is not the one the plan was made with"):
        Reader(loaded, changed)
    with pytest.raises(DefinitionError, match="there is no feature service 'fraud_v9'"):
        compile_plan(world.store, "fraud_v9")


def test_replay_and_second_writer_never_move_a_key_backwards(world: World) -> None:
    row = world.payments.slice(world.payments.num_rows - 1).to_pylist()[0]
    t = row["event_timestamp"] + timedelta(seconds=1)
    newest = world.score(row, t)
    project(world.settings, world.payments.slice(0, 3000))  # an older state of every key
    assert world.score(row, t).values.tobytes() == newest.values.tobytes()


def test_keys_expire_when_their_longest_window_has_passed_but_never_plain_features(world: World) -> None:
    row = world.payments.slice(world.payments.num_rows - 1).to_pylist()[0]
    key = world.reader.commands(row)[0][0]
    assert -1 <= timedelta(days=31, minutes=10).total_seconds() - world.client.ttl(key) <= 300
    world.client.persist(key)  # as a write of a plain view does
    project(
        world.settings, pa.concat_tables([world.payments, world.payments.slice(world.payments.num_rows - 1)])
    )
    assert world.client.ttl(key) == -1


def test_reader_is_compiled_before_the_first_stored_state_is_read(world: World) -> None:
    before = len(read_words.signatures)
    Reader(world.plan, REPO)
    row = world.payments.slice(world.payments.num_rows - 1).to_pylist()[0]
    assert world.score(row, NOW).newest_us is not None
    assert len(read_words.signatures) == max(before, 1) == 1
