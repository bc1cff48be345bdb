"""Features from labels: what they count, and that a label counts only from the moment it became known."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
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

from feature_repo.stores.clock import as_of, to_us
from feature_repo.stores.open_store import open_store
from feature_repo.streams.labels import LABELS
from flows.bootstrap import run
from flows.settings import FlowSettings
from tests.kits.applied_home import feast
from tests.kits.payments import START, as_table, payment

DAYS = 30
WINDOWS = (1, 3, 7, 30)
FEATURES = [
    f"{who}_labels:{who}_{name}"
    for who in ("account", "merchant")
    for name in (
        *(f"{kind}_count_{days}d" for kind in ("fraud", "known") for days in WINDOWS),
        "fraud_decayed_30d",
        "seconds_since_fraud",
        "clean_since_fraud",
    )
]


def label(number: int, at: datetime, *, fraud: bool, suffix: str = "") -> dict[str, Any]:
    return {
        "label_id": f"l{number:06d}{suffix}",
        "event_timestamp": at,
        "payment_id": f"p{number:010d}",
        "is_fraud": fraud,
        "labeler": "analyst",
    }


class World:
    """A month of payments, and labels that come days after them, some withdrawn; run through the real flows from
    files.
    """

    def __init__(self, home: Path, redis_url: str) -> None:
        self.settings = FlowSettings(home=home, redis_url=redis_url, epoch_ms=250)
        rng = np.random.default_rng(4)
        self.payments = [
            payment(n, START + timedelta(seconds=float(t)), account_id=f"a{n % 7}", merchant_id=f"m{n % 5}")
            for n, t in enumerate(np.sort(rng.uniform(0, DAYS * 86_400, 600)))
        ]
        self.labels: list[dict[str, Any]] = []
        for n in rng.choice(600, 150, replace=False).tolist():
            at = datetime.fromisoformat(self.payments[n]["event_timestamp"]) + timedelta(
                days=float(rng.uniform(0.1, 9))
            )
            fraud = bool(rng.random() < 0.6)
            self.labels.append(label(n, at, fraud=fraud))
            if fraud and rng.random() < 0.3:
                later = at + timedelta(days=float(rng.uniform(0.1, 4)))
                self.labels.append(label(n, later, fraud=False, suffix="w"))
        self.labels.sort(key=lambda row: row["event_timestamp"])
        feast(self.settings, "apply")
        self.through("payments", as_table(self.payments))
        self.store: FeatureStore = open_store(self.settings)

    def through(self, stream: str, table: pa.Table, name: str = "") -> None:
        path = self.settings.home / f"{name or stream}.parquet"
        pq.write_table(table, path)
        run(stream, self.settings.model_copy(update={"source_files": str(path)}))

    def features(self, rows: pd.DataFrame) -> pd.DataFrame:
        made = self.store.get_historical_features(entity_df=rows, features=FEATURES).to_df()
        assert isinstance(made, pd.DataFrame)
        return made

    @property
    def log(self) -> str:
        return f"read_parquet('{self.settings.labels_log}/*.parquet')"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("labels-home")
        patch.setenv("MILLSTREAM_HOME", str(home))
        patch.setenv("MILLSTREAM_PSEUDONYM_KEY", "off")
        patch.setenv("REDIS_URL", redis_url)
        redis.Redis.from_url(redis_url).flushall()
        made = World(home, redis_url)
        made.through("labels", pa.Table.from_pylist(made.labels, schema=LABELS.schema))
        yield made


@pytest.fixture(scope="module")
def asked(world: World) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    times = [START + timedelta(days=float(d)) for d in rng.uniform(0, DAYS + 12, 300)]
    return pd.DataFrame(
        {
            "row": range(300),
            "account_id": [f"a{i}" for i in rng.integers(0, 7, 300)],
            "merchant_id": [f"m{i}" for i in rng.integers(0, 5, 300)],
            "event_timestamp": pd.to_datetime(times, utc=True),
        }
    )


def test_counts_and_times_are_those_of_sql_over_the_labels_as_they_became_known(
    world: World, asked: pd.DataFrame
) -> None:
    made = world.features(asked)
    for who in ("account", "merchant"):
        sums = ", ".join(
            f"coalesce(sum(l.{kind}_change) FILTER (WHERE l.t >= a.t - {days}::BIGINT * 86400000000), 0) AS {who}_{kind}_count_{days}d"
            for kind in ("fraud", "known")
            for days in WINDOWS
        )
        expected = duckdb.sql(f"""
            WITH a AS (SELECT row, {who}_id AS k, epoch_us(event_timestamp) AS t FROM asked),
                 l AS (SELECT *, {who}_id AS k, epoch_us(event_timestamp) AS t FROM {world.log})
            SELECT a.row, {sums},
                (any_value(a.t) - max(l.t) FILTER (WHERE l.fraud_reported = 1)) / 1e6 AS {who}_seconds_since_fraud,
                coalesce(sum(l.fraud_change * 2.0 ** (-(a.t - l.t) / (7.5 * 86400e6))), 0) AS {who}_fraud_decayed_30d
            FROM a LEFT JOIN l ON a.k = l.k AND l.t < a.t AND l.t >= a.t - 30::BIGINT * 86400000000
            GROUP BY a.row ORDER BY a.row""").df()
        assert made[f"{who}_fraud_count_7d"].abs().sum() > 50
        for name in expected.columns.drop("row"):
            np.testing.assert_allclose(
                made[name].astype(float), expected[name].astype(float), atol=1e-9, rtol=1e-9
            )


def test_label_known_a_week_later_changes_no_feature_of_the_week_between(world: World) -> None:
    happened = START + timedelta(days=10)
    known = happened + timedelta(days=7)
    times = [happened + timedelta(hours=3 * i) for i in range(70)]
    rows = pd.DataFrame(
        {
            "account_id": "a1",
            "merchant_id": "m1",
            "event_timestamp": pd.to_datetime([*times, known, known + timedelta(microseconds=1)], utc=True),
        }
    )
    before = world.features(rows)
    leak = {**label(999_999, known, fraud=True), "account_id": "a1", "merchant_id": "m1"}
    world.through("labels", pa.Table.from_pylist([leak], schema=LABELS.schema), "leak")
    after = world.features(rows)
    between = rows["event_timestamp"] <= pd.Timestamp(known)
    assert between.sum() > 50
    pd.testing.assert_frame_equal(before[between], after[between])
    changed = after["account_fraud_count_1d"][~between] - before["account_fraud_count_1d"][~between]
    assert changed.iloc[-1] == 1.0
    assert after["merchant_clean_since_fraud"].iloc[-1] == 0


def test_online_reads_the_same_as_history(world: World, asked: pd.DataFrame) -> None:
    late = asked[asked["event_timestamp"] > pd.Timestamp(START + timedelta(days=DAYS + 9, hours=1))].head(10)
    history = world.features(late).set_index("row")
    assert len(late) == 10
    for _, row in late.iterrows():
        with as_of(row["event_timestamp"].to_pydatetime()):
            keys = [{"account_id": row["account_id"], "merchant_id": row["merchant_id"]}]
            online = world.store.get_online_features(features=FEATURES, entity_rows=keys).to_dict()
        for feature in FEATURES:
            name = feature.split(":")[1]
            live, log = online[name][0], history[name][row["row"]]
            assert live == log or (live is None and pd.isna(log)), (name, to_us(row["event_timestamp"]))
