"""Plain feature views behave as with Feast's own Redis and DuckDB stores; where ours differ, they differ on purpose."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Bool, Float64, Int64, String, UnixTimestamp

from feature_repo.errors import OfflineStoreError
from feature_repo.stores.online.feast_store import connection_string

NOW = datetime.now(UTC).replace(microsecond=123456)
FEATURES = [
    "driver_stats:rating",
    "driver_stats:trips",
    "driver_stats:city",
    "driver_stats:active",
    "driver_stats:since",
]


def rows(
    times: list[float], created: list[float], ratings: list[float | None], drivers: list[str] | None = None
) -> pd.DataFrame:
    """One row per version of a driver; times in hours before now."""
    return pd.DataFrame(
        {
            "driver_id": drivers or ["d1"] * len(times),
            "event_timestamp": pd.to_datetime([NOW - timedelta(hours=h) for h in times], utc=True).astype(
                "datetime64[us, UTC]"
            ),
            "created_timestamp": pd.to_datetime([NOW - timedelta(hours=h) for h in created], utc=True).astype(
                "datetime64[us, UTC]"
            ),
            "rating": ratings,
            "trips": list(range(len(times))),
            "city": ["Bern", None, "Zürich", "x"][: len(times)],
            "active": [True, False, True, False][: len(times)],
            "since": pd.to_datetime([NOW] * len(times), utc=True).astype("datetime64[us, UTC]"),
        }
    )


def repo(home: Path, project: str, online: dict[str, Any], offline: str, ttl: timedelta) -> FeatureStore:
    home.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project=project, provider="local", registry=str(home / f"{project}.db"), online_store=online,
        offline_store={"type": offline}, entity_key_serialization_version=3, repo_path=home,
    )  # fmt: skip
    store = FeatureStore(config=config)
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.STRING)
    source = FileSource(
        name="drivers",
        file_format=ParquetFormat(),
        path=str(home / "drivers"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    schema = [
        Field(name="rating", dtype=Float64), Field(name="trips", dtype=Int64), Field(name="city", dtype=String),
        Field(name="active", dtype=Bool), Field(name="since", dtype=UnixTimestamp),
    ]  # fmt: skip
    store.apply(
        [
            driver,
            source,
            FeatureView(name="driver_stats", entities=[driver], source=source, schema=schema, ttl=ttl),
        ]
    )
    return store


class Pair:
    """Ours and Feast's own stores, each with its project, over the same file and the same server."""

    def __init__(self, home: Path, url: str, ttl: timedelta = timedelta(0)) -> None:
        (home / "drivers").mkdir(parents=True, exist_ok=True)
        address = connection_string(url)
        ours = {
            "type": "feature_repo.stores.online.MillstreamOnlineStore",
            "connection_string": address,
            "home": str(home),
        }
        self.home = home
        self.ours = repo(home, "ours", ours, "feature_repo.stores.offline.MillstreamOfflineStore", ttl)
        self.feast = repo(home, "feasts", {"type": "redis", "connection_string": address}, "duckdb", ttl)

    def log(self, frame: pd.DataFrame) -> None:
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), self.home / "drivers" / "a.parquet")

    def write(self, frame: pd.DataFrame) -> None:
        for store in (self.ours, self.feast):
            store.write_to_online_store("driver_stats", frame)

    def online(self, *drivers: str) -> list[dict[str, Any]]:
        return [
            s.get_online_features(FEATURES, [{"driver_id": d} for d in drivers]).to_dict()
            for s in (self.ours, self.feast)
        ]

    def history(self, hours: list[float], **options: Any) -> list[pd.DataFrame]:
        asked = pd.DataFrame(
            {
                "driver_id": ["d1"] * len(hours),
                "event_timestamp": pd.to_datetime([NOW - timedelta(hours=h) for h in hours], utc=True),
            }
        )
        made = [
            s.get_historical_features(asked, FEATURES, **options).to_df() for s in (self.ours, self.feast)
        ]
        return [m.sort_values("event_timestamp", ascending=False).reset_index(drop=True) for m in made]


@pytest.fixture
def pair(clean_redis: redis.Redis, redis_url: str, home: Path) -> Pair:
    return Pair(home, redis_url)


def test_online_values_and_bytes_equal_feasts_own(pair: Pair, clean_redis: redis.Redis) -> None:
    pair.write(rows([3, 2], [3, 2], [4.5, None], ["d1", "d2"]))
    ours, feasts = pair.online("d1", "d2")
    assert ours == feasts
    keys = {key.removesuffix(b"ours").removesuffix(b"feasts"): None for key in clean_redis.keys("*")}
    assert len(keys) == 2
    for key in keys:
        assert clean_redis.hgetall(key + b"ours") == clean_redis.hgetall(key + b"feasts")


def test_async_read_equals_sync_read(pair: Pair) -> None:
    pair.write(rows([3], [3], [4.5]))
    one = asyncio.run(pair.ours.get_online_features_async(FEATURES, [{"driver_id": "d1"}])).to_dict()
    assert one == pair.online("d1")[0]


def test_an_older_row_never_replaces_a_newer_one(pair: Pair) -> None:
    pair.write(rows([1], [1], [5.0]))
    pair.write(rows([2], [0], [1.0]))
    ours, feasts = pair.online("d1")
    assert ours["rating"] == feasts["rating"] == [5.0]


def test_unknown_entity_is_not_found(pair: Pair) -> None:
    pair.write(rows([1], [1], [5.0]))
    response = pair.ours.get_online_features(FEATURES, [{"driver_id": "nobody"}])
    assert response.to_dict()["rating"] == [None]
    assert {status for r in response.proto.results[1:] for status in r.statuses} == {FieldStatus.NOT_FOUND}


def test_ttl_is_honoured_online_and_the_event_time_stays_readable(
    clean_redis: redis.Redis, redis_url: str, home: Path
) -> None:
    pair = Pair(home, redis_url, timedelta(hours=2))
    pair.write(rows([3, 1], [3, 1], [4.5, 5.0], ["old", "new"]))
    response = pair.ours.get_online_features(FEATURES, [{"driver_id": d} for d in ("old", "new")])
    assert response.to_dict()["rating"] == [None, 5.0]
    assert response.proto.results[1].event_timestamps[0].ToDatetime(tzinfo=UTC) == NOW - timedelta(hours=3)


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(hours=2)], ids=["for ever", "2 h"])
@pytest.mark.parametrize("by_created", [False, True])
def test_history_equals_feasts_duckdb_store(
    clean_redis: redis.Redis, redis_url: str, home: Path, ttl: timedelta, by_created: bool
) -> None:
    pair = Pair(home, redis_url, ttl)
    pair.log(rows([5, 3, 3, 1], [5, 3, 0.5, 1], [1.0, 2.0, 3.0, None]))
    ours, feasts = pair.history([6, 5, 4.5, 3, 2.999, 2, 1, 0], filter_by_created_timestamp=by_created)
    pd.testing.assert_frame_equal(ours, feasts, check_dtype=False)
    assert len(ours) == 8


def test_materialize_writes_plain_views_to_the_online_store(pair: Pair) -> None:
    pair.log(rows([5, 3, 1], [5, 3, 1], [1.0, 2.0, 3.0]))
    pair.ours.materialize(NOW - timedelta(days=1), NOW, feature_views=["driver_stats"])
    assert pair.ours.get_online_features(FEATURES, [{"driver_id": "d1"}]).to_dict()["rating"] == [3.0]


def test_offline_write_adds_a_file_and_leaves_the_others(pair: Pair) -> None:
    pair.log(rows([5], [5], [1.0]))
    before = (pair.home / "drivers" / "a.parquet").read_bytes()
    pair.ours.write_to_offline_store("driver_stats", rows([1], [1], [9.0]), reorder_columns=True)
    assert (pair.home / "drivers" / "a.parquet").read_bytes() == before
    assert list(pair.history([4, 0])[0]["rating"]) == [9.0, 1.0]


def test_history_of_a_source_without_the_column_names_view_and_source(pair: Pair) -> None:
    pair.log(rows([5], [5], [1.0]).drop(columns="rating"))
    with pytest.raises(OfflineStoreError, match=r"view 'driver_stats' cannot be joined.*rating"):
        pair.history([1])
