"""Features over derived columns, and the robust ones: against SQL over the log, and the same for the payment being
scored.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from feature_repo.stores.open_store import open_store
from flows.bootstrap import run
from flows.settings import FlowSettings
from tests.flows.enrich.test_enrichment import log_of, random_world
from tests.kits.applied_home import feast

_DAY = 86_400_000_000
_SUMS = {
    "account_far_count_1d": ("sum", "is_far::INT", 1),
    "account_far_count_7d": ("sum", "is_far::INT", 7),
    "account_night_count_7d": ("sum", "is_night::INT", 7),
    "account_new_device_count_7d": ("sum", "is_new_device::INT", 7),
    "account_new_payee_count_1d": ("sum", "is_new_payee::INT", 1),
    "account_new_payee_count_7d": ("sum", "is_new_payee::INT", 7),
    "account_outsized_count_3d": ("sum", "is_outsized::INT", 3),
    "account_outsized_count_7d": ("sum", "is_outsized::INT", 7),
    "account_outsized_count_14d": ("sum", "is_outsized::INT", 14),
    "account_speed_max_1d": ("max", "speed_kmh", 1),
    "account_home_distance_max_1d": ("max", "home_distance_m", 1),
    "account_home_distance_mean_7d": ("avg", "home_distance_m", 7),
}
_DERIVED = ("home_distance_m", "is_far", "local_hour", "is_night", "previous_distance_m", "speed_kmh")
_HABITS = ("is_new_device", "is_outsized", "amount_over_account_median_30d", "amount_over_account_p95_30d")


class World:
    """Two weeks of payments (one every 400 s) of customers who move, through the real flows; features of each as of
    itself.
    """

    def __init__(self, settings: FlowSettings) -> None:
        self.settings = settings
        feast(settings, "apply")
        customers, payments = random_world(7)
        customers = customers.drop_columns(["segment"])
        stretched = payments["event_timestamp"].cast("int64").to_numpy()
        stretched = stretched[0] + (stretched - stretched[0]) * 400
        payments = payments.set_column(
            1, payments.schema.field(1), pa.array(stretched).cast(payments.schema.field(1).type)
        )
        for stream, table in (("customers", customers), ("payments", payments)):
            path = settings.home / f"{stream}.parquet"
            pq.write_table(table, path)
            wide = settings.model_copy(
                update={"source_files": str(path), "allowed_lateness_seconds": 400_000.0}
            )
            run(stream, wide)
        self.log = duckdb.sql(f"SELECT * FROM {log_of(settings, 'payments')} ORDER BY source_offset").df()
        rows = self.log[
            [
                "event_id", "event_timestamp", "account_id", "merchant_id", "device_id", "type", "amount",
                "account_balance_before", "latitude", "longitude",
            ]
        ]  # fmt: skip
        rows = rows.assign(event_timestamp=pd.to_datetime(rows["event_timestamp"], utc=True))
        wanted = [
            *(f"account_behaviour:{name}" for name in _SUMS),
            *(f"account_last_three:account_amount_last_{n}" for n in (2, 3)),
            *(f"account_amounts:account_amount_{name}_30d" for name in ("count", "median", "p95")),
            *(f"payment_place:{name}" for name in _DERIVED),
            *(f"payment_habits:{name}" for name in _HABITS),
        ]
        self.features = open_store(settings).get_historical_features(entity_df=rows, features=wanted).to_df()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("behaviour-home")
        patch.setenv("MILLSTREAM_HOME", str(home))
        patch.setenv("MILLSTREAM_PSEUDONYM_KEY", "off")
        patch.setenv("REDIS_URL", redis_url)
        redis.Redis.from_url(redis_url).flushall()
        yield World(FlowSettings(home=home, redis_url=redis_url, epoch_ms=250))


def test_windows_over_derived_columns_are_those_of_sql(world: World) -> None:
    log = world.log  # noqa: F841 - DuckDB reads it
    columns = ", ".join(
        f"{'coalesce(' if kind == 'sum' else ''}{kind}({column}) FILTER (WHERE b.t >= a.t - {days * _DAY})"
        f"{', 0)' if kind == 'sum' else ''} AS {name}"
        for name, (kind, column, days) in _SUMS.items()
    )
    expected = duckdb.sql(f"""
        WITH b AS (SELECT *, epoch_us(event_timestamp) AS t FROM log)
        SELECT a.event_id, {columns}
        FROM (SELECT event_id, account_id, t FROM b) a LEFT JOIN b ON a.account_id = b.account_id AND b.t < a.t AND b.t >= a.t - {14 * _DAY}
        GROUP BY a.event_id""").df()
    both = world.features.set_index("event_id"), expected.set_index("event_id")
    assert len(both[0]) == len(both[1]) > 2_500
    for name in _SUMS:
        assert both[0][name].notna().any()
        np.testing.assert_allclose(
            both[0][name].astype(float),
            both[1].loc[both[0].index, name].astype(float),
            rtol=1e-9,
            err_msg=name,
        )


def test_payment_being_scored_is_judged_as_the_log_judged_it(world: World) -> None:
    made, log = world.features.set_index("event_id"), world.log.set_index("event_id")
    # An earlier payment of the same account that was accepted after this one: the log could not know it, history does.
    later = duckdb.sql(f"""
        WITH b AS (SELECT event_id, account_id, source_offset AS o, epoch_us(event_timestamp) AS t FROM {log_of(world.settings, "payments")})
        SELECT a.event_id FROM b a WHERE EXISTS (SELECT 1 FROM b WHERE b.account_id = a.account_id AND b.t < a.t AND b.o > a.o)""")
    overtaken = made.index.isin([row[0] for row in later.fetchall()])
    assert 100 < (~overtaken).sum() < len(made)
    for name in (*_DERIVED, "is_new_device", "is_outsized"):
        ours, theirs = made[name].astype(float), log.loc[made.index, name].astype(float)
        same = np.isclose(ours, theirs, rtol=1e-12, equal_nan=True)
        assert same[~overtaken].all(), name
        assert np.nanstd(ours) > 0, name
        if name in {"home_distance_m", "is_far", "local_hour", "is_night"}:
            assert same.all(), name


def test_quantiles_are_within_one_percent_of_the_amounts_before_and_exclude_the_payment(world: World) -> None:
    log = world.log
    times = log["event_timestamp"].astype("int64").to_numpy() // (
        1_000 if log["event_timestamp"].dtype.name.startswith("datetime64[ns") else 1
    )
    hour = 3_600_000_000
    made = world.features.set_index("event_id").loc[log["event_id"]]
    checked = 0
    for i in range(0, len(log), 7):
        end = times[i] // hour * hour
        mine = (
            (log["account_id"] == log["account_id"][i]).to_numpy()
            & (times < end)
            & (times >= end - 30 * _DAY)
        )
        amounts = np.sort(log["amount"].to_numpy()[mine])
        assert made["account_amount_count_30d"].iloc[i] == len(amounts)
        if not len(amounts):
            continue
        for name, q in (("median", 0.5), ("p95", 0.95)):
            exact = amounts[int(np.floor(q * (len(amounts) - 1)))]
            sketched = made[f"account_amount_{name}_30d"].iloc[i]
            assert sketched == pytest.approx(exact, rel=0.0101)
            ratio = made[f"amount_over_account_{name}_30d"].iloc[i]
            assert ratio == pytest.approx(log["amount"][i] / sketched)
            checked += 1
    assert checked > 500
