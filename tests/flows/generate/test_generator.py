"""The generated world: reproducible, continuable, consistent to the cent, and with labels as late as in life."""

import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis
from typer.testing import CliRunner

from feature_repo.errors import DataError
from feature_repo.streams import STREAMS, charges, customers, merchants
from feature_repo.streams.labels import FRAUD_TYPES, LABELS
from feature_repo.streams.payments import PAYMENTS, TYPES
from flows.generate import Events, History, World, epoch_us, generate, live, split_labels
from flows.generate.command import app, write_history
from flows.generate.merchants import CATEGORIES
from flows.local.redis_server import redis_server
from flows.publish.bus import encode, publish
from flows.streams import partition_of
from flows.traffic.live import Traffic

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = 10
SMALL: dict[str, Any] = {"accounts": 300, "merchants": 60, "payments": 12_000}


@pytest.fixture(scope="module")
def history() -> History:
    return generate(7, START, DAYS, **SMALL)


@pytest.fixture(scope="module")
def quarter() -> History:
    """Ninety days with few payments: long enough for people to move and shops to close."""
    return generate(11, START, 90, accounts=1_000, merchants=200, payments=45_000)


def micros(table: pa.Table) -> np.ndarray[Any, Any]:
    return np.asarray(table["event_timestamp"].cast(pa.int64()))


def test_same_seed_makes_the_same_history(history: History) -> None:
    again = generate(7, START, DAYS, **SMALL)
    assert again.payments.equals(history.payments)
    assert again.labels.equals(history.labels)
    assert again.customers.equals(history.customers)
    assert again.merchants.equals(history.merchants)
    assert again.charges.equals(history.charges)


def test_days_one_by_one_make_the_same_history_as_all_at_once(history: History) -> None:
    world = World(**world_of(history))
    parts: list[Events] = []
    for day in range(DAYS):
        first = epoch_us(START + timedelta(days=day))
        parts += world.payments(first, epoch_us(START + timedelta(days=day + 1)))
    assert pa.concat_tables(part.payments for part in parts).equals(history.payments)
    assert pa.concat_tables(part.customers.table for part in parts).equals(history.customers)
    assert pa.concat_tables(part.merchants.table for part in parts).equals(history.merchants)
    assert pa.concat_tables(part.charges.table for part in parts).equals(history.charges)


def world_of(history: History) -> dict[str, Any]:
    world = history.world
    return {
        "seed": world.seed,
        "accounts": world.places.accounts,
        "merchants": world.places.merchants,
        "payments_a_day": world.payments_a_day,
        "fraud_share": world.fraud_share,
    }


def test_another_seed_makes_another_history(history: History) -> None:
    other = generate(8, START, DAYS, **SMALL)
    assert not other.payments["amount"].equals(history.payments["amount"])


def test_tables_have_the_canonical_schemas(history: History) -> None:
    assert history.payments.schema.equals(PAYMENTS.schema)
    assert history.labels.schema.equals(LABELS.schema)
    assert history.customers.schema.equals(customers.CUSTOMERS.schema)
    assert history.merchants.schema.equals(merchants.MERCHANTS.schema)
    assert history.charges.schema.equals(charges.CHARGES.schema)


def test_required_columns_are_never_null(history: History) -> None:
    assert {name: history.payments[name].null_count for name in PAYMENTS.required} == dict.fromkeys(
        PAYMENTS.required, 0
    )


@pytest.mark.parametrize("name", ["customers", "merchants", "charges"])
def test_required_columns_of_the_other_streams_are_never_null(quarter: History, name: str) -> None:
    table: pa.Table = getattr(quarter, name)
    required = STREAMS[name].required
    assert {column: table[column].null_count for column in required} == dict.fromkeys(required, 0)
    assert len(table["event_id"].unique()) == table.num_rows


def test_columns_with_a_list_of_values_keep_to_it(quarter: History) -> None:
    allowed = {
        ("customers", "segment"): customers.SEGMENTS,
        ("merchants", "category"): CATEGORIES,
        ("merchants", "risk_tier"): merchants.RISK_TIERS,
        ("charges", "card_network"): charges.CARD_NETWORKS,
        ("charges", "entry_mode"): charges.ENTRY_MODES,
        ("charges", "three_ds_result"): charges.THREE_DS_RESULTS,
    }
    for (stream, column), values in allowed.items():
        found = set(getattr(quarter, stream)[column].to_pylist()) - {None}
        assert found == set(values), column


def test_people_are_invented_and_look_like_people(history: History) -> None:
    for person in history.customers.to_pylist():
        if person["deleted"]:
            continue
        assert re.fullmatch(r"[a-z.0-9]+@([a-z]+\.)?example\.org", person["email"])
        assert re.fullmatch(r"\+49\d{9,11}", person["phone"])
        assert 18 <= (START.date() - date.fromisoformat(person["birth_date"])).days / 365.25 < 90
        assert -90 <= person["home_latitude"] <= 90
        assert -180 <= person["home_longitude"] <= 180
        assert person["opened_at"] <= person["event_timestamp"]


def versions(table: pa.Table, key: str) -> dict[str, list[dict[str, Any]]]:
    """Versions by key, in event order; those of one instant in the order of arrival."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(table.to_pylist(), key=lambda row: row["event_timestamp"]):
        found.setdefault(row[key], []).append(row)
    return found


def steps(table: pa.Table, key: str) -> list[set[str]]:
    """For every version but the first of its key: the columns that differ from the version before."""
    ignored = {"event_id", "event_timestamp"}
    return [
        {name for name in after if name not in ignored and after[name] != before[name]}
        for rows in versions(table, key).values()
        for before, after in pairwise(rows)
    ]


def test_every_account_has_a_version_before_its_first_payment(quarter: History) -> None:
    known = {
        account: rows[0]["event_timestamp"]
        for account, rows in versions(quarter.customers, "account_id").items()
    }
    for payment in quarter.payments.select(["account_id", "event_timestamp"]).to_pylist():
        assert known[payment["account_id"]] <= payment["event_timestamp"]


def test_customers_move_are_corrected_open_and_close(quarter: History) -> None:
    changed = steps(quarter.customers, "account_id")
    homes = [step for step in changed if step == {"home_latitude", "home_longitude"}]
    assert len(homes) > 20
    assert {"email"} in changed
    assert {"phone"} in changed
    assert {"segment"} in changed
    assert any("deleted" in step for step in changed)
    opened = [row for row in quarter.customers.to_pylist() if row["opened_at"] and row["opened_at"] > START]
    assert opened
    assert all(row["event_timestamp"] >= row["opened_at"] for row in opened)


def test_nobody_is_born_twice(quarter: History) -> None:
    for rows in versions(quarter.customers, "account_id").values():
        assert len({(row["name"], row["birth_date"]) for row in rows if not row["deleted"]}) == 1


def test_deleted_versions_say_nothing_else(quarter: History) -> None:
    for table, key in ((quarter.customers, "account_id"), (quarter.merchants, "merchant_id")):
        gone = [row for row in table.to_pylist() if row["deleted"]]
        assert gone
        for row in gone:
            assert {name for name, value in row.items() if value is not None} == {
                "event_id",
                "event_timestamp",
                key,
                "deleted",
            }


def test_closed_accounts_and_merchants_have_no_more_payments(quarter: History) -> None:
    for table, key in ((quarter.customers, "account_id"), (quarter.merchants, "merchant_id")):
        closed = {row[key]: row["event_timestamp"] for row in table.to_pylist() if row["deleted"]}
        after = [
            payment
            for payment in quarter.payments.select([key, "event_timestamp"]).to_pylist()
            if payment["event_timestamp"]
            >= closed.get(payment[key], payment["event_timestamp"] + timedelta(1))
        ]
        assert closed
        assert not after


def test_honest_payments_follow_a_move_to_another_city(quarter: History) -> None:
    frauds = truth(quarter)
    payments: dict[str, list[dict[str, Any]]] = {}
    for payment in quarter.payments.to_pylist():
        if payment["latitude"] is not None and payment["event_id"] not in frauds:
            payments.setdefault(payment["account_id"], []).append(payment)
    near_new, near_old = [], []
    for account, rows in versions(quarter.customers, "account_id").items():
        for before, after in pairwise(rows):
            if after["deleted"] or before["segment"] != after["segment"]:
                continue
            away = abs(after["home_latitude"] - before["home_latitude"])
            if away < 2.0:
                continue  # an error corrected, or a move within the city
            for payment in payments.get(account, []):
                if payment["event_timestamp"] >= after["event_timestamp"]:
                    near_new.append(abs(payment["latitude"] - after["home_latitude"]) < away / 2)
                else:
                    near_old.append(abs(payment["latitude"] - before["home_latitude"]) < away / 2)
    assert len(near_new) > 50
    assert np.mean(near_new) > 0.75
    assert np.mean(near_old) > 0.75


def test_changes_arrive_in_order_and_some_became_true_up_to_ten_minutes_before() -> None:
    world = World(11, accounts=1_000, merchants=200, payments_a_day=100)
    parts = list(world.payments(epoch_us(START), epoch_us(START + timedelta(days=60))))
    late = np.concatenate([part.customers.arrivals - micros(part.customers.table) for part in parts])
    arrivals = np.concatenate([part.customers.arrivals for part in parts])
    assert (np.diff(arrivals) >= 0).all()
    assert (late >= 0).all()
    assert late.max() < 600e6
    assert (late > 0).sum() > 5
    behind = np.maximum.accumulate(arrivals - late) - (arrivals - late)
    assert behind.max() < 600e6


def test_merchants_open_change_and_close(quarter: History) -> None:
    changed = steps(quarter.merchants, "merchant_id")
    assert {"risk_tier"} in changed
    assert {"category"} in changed
    rows = quarter.merchants.to_pylist()
    assert any(row["opened_at"] and row["opened_at"] > START for row in rows)
    online = [row for row in rows if row["latitude"] is None and not row["deleted"]]
    assert 0.1 < len(online) / len(rows) < 0.4
    assert all(row["longitude"] is None for row in online)


def test_charges_belong_to_payments_by_card_and_come_mostly_before_them(history: History) -> None:
    payments = {payment["event_id"]: payment for payment in history.payments.to_pylist()}
    cards = [p for p in payments.values() if p["type"] == "PAYMENT" and p["channel"] in {"app", "web", "pos"}]
    charges = history.charges.to_pylist()
    assert {row["payment_id"] for row in charges} == {p["event_id"] for p in cards}
    ahead = np.array(
        [
            (payments[row["payment_id"]]["event_timestamp"] - row["event_timestamp"]).total_seconds()
            for row in charges
        ]
    )
    assert ahead.min() >= -0.2
    assert ahead.max() <= 0.4
    assert ahead[ahead > 0].min() >= 0.15
    assert np.mean(ahead < 0) == pytest.approx(0.1, abs=0.02)


def test_no_detail_of_a_charge_gives_a_fraud_away(quarter: History) -> None:
    frauds = truth(quarter)
    table = quarter.charges
    fraud = np.array([payment in frauds for payment in table["payment_id"].to_pylist()])
    assert fraud.sum() > 100
    for name in ("entry_mode", "three_ds_result", "card_network"):
        values = np.array(table[name].to_pylist(), object)
        for value in set(values[fraud]):
            share = fraud[values == value].mean()
            assert share < 0.15, (name, value)


def test_far_and_new_device_frauds_overlap_with_honest_travel(quarter: History) -> None:
    frauds = truth(quarter)
    homes = {account: rows[-1] for account, rows in versions(quarter.customers, "account_id").items()}
    far: dict[bool, list[bool]] = {True: [], False: []}
    for payment in quarter.payments.to_pylist():
        home = homes[payment["account_id"]]
        if payment["latitude"] is not None and not home["deleted"]:
            distance = abs(payment["latitude"] - home["home_latitude"])
            far[payment["event_id"] in frauds].append(distance > 0.5)
    assert 0.2 < np.mean(far[True]) < 0.7
    assert 0.02 < np.mean(far[False]) < 0.15


def test_victims_are_robbed_again_more_often_than_others_are_once(quarter: History) -> None:
    frauds = truth(quarter)
    days: dict[str, set[int]] = {}
    for payment in quarter.payments.to_pylist():
        if payment["event_id"] in frauds:
            days.setdefault(payment["account_id"], set()).add(payment["event_timestamp"].toordinal())
    again = np.mean([max(found) - min(found) > 0 for found in days.values()])
    assert 0.1 < again < 0.6


def test_some_honest_payments_are_cleared_in_their_first_statement(history: History) -> None:
    labels = pa.concat_tables([history.labels, history.pending]).sort_by("event_timestamp").to_pylist()
    first: dict[str, dict[str, Any]] = {}
    for label in labels:
        first.setdefault(label["payment_id"], label)
    cleared = [label for label in first.values() if not label["is_fraud"]]
    assert len(cleared) == pytest.approx(0.02 * history.payments.num_rows, rel=0.25)
    assert {label["labeler"] for label in cleared} == {"analyst"}
    assert not {label["payment_id"] for label in cleared} & truth(history)


def test_labels_with_keys_name_the_payer_and_the_payee(history: History) -> None:
    payments = {payment["event_id"]: payment for payment in history.payments.to_pylist()}
    keyed = [label for label in history.labels.to_pylist() if label["account_id"]]
    assert 0.1 < len(keyed) / history.labels.num_rows < 0.3
    for label in keyed:
        payment = payments[label["payment_id"]]
        assert (label["account_id"], label["merchant_id"]) == (payment["account_id"], payment["merchant_id"])


def test_smallest_world_runs() -> None:
    history = generate(2, START, 3, accounts=10, merchants=10, payments=300)
    assert history.payments.num_rows > 200
    assert history.customers.num_rows >= 9


def test_count_is_close_to_the_wish(history: History) -> None:
    assert history.payments.num_rows == pytest.approx(SMALL["payments"], rel=0.03)


def test_payments_are_sorted_and_inside_the_time_asked_for(history: History) -> None:
    t = micros(history.payments)
    assert (np.diff(t) >= 0).all()
    assert epoch_us(START) <= t[0]
    assert t[-1] < epoch_us(START + timedelta(days=DAYS))


def test_event_ids_are_unique_across_history_and_live(history: History) -> None:
    world = generate(7, START, 2, **SMALL).world
    ids = history.payments["event_id"].to_pylist()
    for block in live(world, START + timedelta(days=2), rate=500, seconds=6):
        ids += block.payments["event_id"].to_pylist()
    assert len(ids) == len(set(ids))


def test_all_types_and_all_frauds_are_present(history: History) -> None:
    assert set(history.payments["type"].to_pylist()) == set(TYPES)
    assert set(history.labels["fraud_type"].to_pylist()) == {*FRAUD_TYPES, None}


def test_fraud_is_rare(history: History) -> None:
    assert 0.004 < len(truth(history)) / history.payments.num_rows < 0.012


def truth(history: History) -> set[str]:
    """Payments that are fraud by what is known in the end."""
    labels = pa.concat_tables([history.labels, history.pending]).sort_by("event_timestamp").to_pylist()
    last = {label["payment_id"]: label["is_fraud"] for label in labels}
    return {payment for payment, fraud in last.items() if fraud}


def test_balances_run_to_the_cent_and_are_never_negative(history: History) -> None:
    balance: dict[str, float] = {}
    for p in history.payments.to_pylist():
        before, after = p["account_balance_before"], p["account_balance_after"]
        assert before >= 0
        assert after >= 0
        assert before == balance.get(p["account_id"], before)
        sign = 1 if p["type"] == "CASH_IN" else -1
        assert after == pytest.approx(before + sign * p["amount"], abs=0.005)
        balance[p["account_id"]] = after
        if p["merchant_balance_after"] is not None:
            assert p["merchant_balance_before"] == balance.get(p["merchant_id"], p["merchant_balance_before"])
            balance[p["merchant_id"]] = p["merchant_balance_after"]


def test_nobody_pays_itself(history: History) -> None:
    assert not pc.any(pc.equal(history.payments["account_id"], history.payments["merchant_id"])).as_py()


def test_labels_come_hours_to_days_after_their_payment(history: History) -> None:
    times = dict(
        zip(history.payments["event_id"].to_pylist(), micros(history.payments).tolist(), strict=True)
    )
    first: dict[str, int] = {}
    for payment, at in zip(history.labels["payment_id"].to_pylist(), micros(history.labels), strict=True):
        first.setdefault(payment, int(at) - times[payment])
    hours = np.array(list(first.values())) / 3.6e9
    assert hours.min() >= 1.0
    assert hours.max() <= 5 * 24
    assert 12 < np.median(hours) < 48


def test_wrong_labels_are_corrected_by_a_later_label(history: History) -> None:
    labels = pa.concat_tables([history.labels, history.pending]).sort_by("event_timestamp").to_pylist()
    rows: dict[str, list[dict[str, Any]]] = {}
    for label in labels:
        rows.setdefault(label["payment_id"], []).append(label)
    withdrawn = [r for r in rows.values() if [x["is_fraud"] for x in r] == [True, False]]
    renamed = [r for r in rows.values() if len({x["fraud_type"] for x in r if x["is_fraud"]}) == 2]
    assert withdrawn
    assert all(r[-1]["fraud_type"] is None and r[-1]["labeler"] == "analyst" for r in withdrawn)
    assert renamed


def test_labels_not_yet_known_at_the_end_are_kept_apart(history: History) -> None:
    end = epoch_us(START + timedelta(days=DAYS))
    assert micros(history.labels).max() < end
    assert micros(history.pending).min() >= end


def test_label_ids_name_payment_and_time_and_are_unique(history: History) -> None:
    labels = history.labels
    expected = [
        f"{p}:{t}" for p, t in zip(labels["payment_id"].to_pylist(), micros(labels).tolist(), strict=True)
    ]
    assert labels["label_id"].to_pylist() == expected
    assert len(set(expected)) == len(expected)


def test_honest_people_empty_accounts_too(history: History) -> None:
    emptied = history.payments.filter(
        pc.and_(
            pc.equal(history.payments["account_balance_after"], 0.0),
            pc.not_equal(history.payments["type"], "CASH_IN"),
        )
    )
    honest = set(emptied["event_id"].to_pylist()) - truth(history)
    assert len(honest) > 0.2 * emptied.num_rows


@pytest.mark.parametrize("kind", FRAUD_TYPES)
def test_each_fraud_follows_its_script(history: History, kind: str) -> None:
    labels = pa.concat_tables([history.labels, history.pending]).sort_by("event_timestamp").to_pylist()
    final = {label["payment_id"]: label for label in labels}
    robbed: dict[str, list[dict[str, Any]]] = {}
    for p in history.payments.to_pylist():
        label = final.get(p["event_id"])
        if label and label["is_fraud"] and label["fraud_type"] == kind:
            robbed.setdefault(p["account_id"], []).append(p)
    assert robbed
    emptying = [ps for ps in robbed.values() if ps[-1]["account_balance_after"] <= 0.25 * largest(ps)]
    assert len(emptying) > 0.8 * len(robbed)
    sizes = {len(ps) for ps in robbed.values()}
    assert max(sizes) >= 3 if kind == "spread" else min(sizes) == 1 if kind == "drain" else max(sizes) >= 2


def largest(payments: list[dict[str, Any]]) -> float:
    return float(max(p["account_balance_before"] for p in payments))


def test_world_continues_from_its_file_as_it_does_in_memory(tmp_path: Path) -> None:
    def traffic(world: World) -> list[Events]:
        return list(live(world, START + timedelta(days=2), rate=300, seconds=7))

    world = generate(3, START, 2, **SMALL).world
    world.save(tmp_path)
    reopened = World.open(tmp_path)
    for mine, theirs in zip(traffic(world), traffic(reopened), strict=True):
        assert mine.payments.equals(theirs.payments)
        assert mine.labels.equals(theirs.labels)
        assert mine.customers.table.equals(theirs.customers.table)
        assert mine.merchants.table.equals(theirs.merchants.table)
        assert mine.charges.table.equals(theirs.charges.table)


def test_world_in_the_middle_of_moves_and_leaks_continues_from_its_file(tmp_path: Path) -> None:
    world = generate(3, START, 20, **SMALL).world
    world.save(tmp_path)
    first, last = epoch_us(START + timedelta(days=20)), epoch_us(START + timedelta(days=30))
    for mine, theirs in zip(
        world.payments(first, last), World.open(tmp_path).payments(first, last), strict=True
    ):
        assert mine.payments.equals(theirs.payments)
        assert mine.customers.table.equals(theirs.customers.table)


def test_everybody_is_announced_once_whether_in_history_or_live(history: History) -> None:
    fresh = World(**world_of(history))
    blocks = list(live(fresh, START, rate=50, seconds=2))
    assert len(set(blocks[0].customers.table["account_id"].to_pylist())) > 280
    assert blocks[0].merchants.table.num_rows > 50
    again = [
        block.customers.table.num_rows
        for block in live(fresh, START + timedelta(seconds=2), rate=50, seconds=2)
    ]
    assert sum(again) < 20


def test_live_customers_change_and_charges_come_with_their_payments() -> None:
    world = generate(5, START, 2, **SMALL).world
    blocks = list(live(world, START + timedelta(days=2), rate=400, seconds=20))
    assert 20 < sum(block.customers.table.num_rows for block in blocks) < 300
    assert sum(block.merchants.table.num_rows for block in blocks) > 2
    number = {}
    for i, block in enumerate(blocks):
        number.update(dict.fromkeys(block.payments["event_id"].to_pylist(), i))
    later = [
        i - number[payment]
        for i, block in enumerate(blocks)
        for payment in block.charges.table["payment_id"].to_pylist()
    ]
    assert 0.04 < np.mean(np.array(later) > 0) < 0.12
    assert max(later) <= 10
    assert min(later) >= -4


def test_live_balances_go_on_where_history_ended(history: History) -> None:
    world = generate(7, START, DAYS, **SMALL).world
    last: dict[str, float] = {}
    for p in history.payments.to_pylist():
        last[p["account_id"]] = p["account_balance_after"]
        if p["merchant_balance_after"] is not None:
            last[p["merchant_id"]] = p["merchant_balance_after"]
    (block,) = live(world, START + timedelta(days=DAYS), rate=200, seconds=1, block_seconds=1)
    first: dict[str, float] = {}
    for p in block.payments.to_pylist():
        if p["merchant_balance_before"] is not None:
            first.setdefault(p["merchant_id"], p["merchant_balance_before"])
        first.setdefault(p["account_id"], p["account_balance_before"])
    known = first.keys() & last.keys()
    assert len(known) > 50
    assert {a: first[a] for a in known} == {a: last[a] for a in known}


def test_live_traffic_keeps_its_rate_and_its_order() -> None:
    world = World(5, accounts=300, merchants=60, payments_a_day=1_000)
    blocks = list(live(world, START, rate=400, seconds=20, block_seconds=0.5))
    t = np.concatenate([micros(block.payments) for block in blocks])
    assert len(blocks) == 40
    assert len(t) == pytest.approx(8_000, rel=0.05)
    assert (np.diff(t) >= 0).all()
    for number, block in enumerate(blocks):
        into = (micros(block.payments) - epoch_us(START)) / 500_000
        assert ((into >= number) & (into < number + 1)).all()
    frauds = sum(len(block.labels.filter(pc.field("is_fraud"))["payment_id"].unique()) for block in blocks)
    assert 10 < frauds < 200


def test_split_labels_at_an_instant_gives_the_instant_to_the_later_half(history: History) -> None:
    instant = history.labels["event_timestamp"][5].as_py()
    known, later = split_labels([history.labels], instant)
    assert known.num_rows == 5
    assert later.num_rows == history.labels.num_rows - 5


def test_world_too_small_for_fraud_is_refused() -> None:
    with pytest.raises(DataError, match="too small"):
        World(1, accounts=3, merchants=50)


def test_world_missing_in_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Generate a history"):
        World.open(tmp_path)


def test_json_has_rfc3339_times_and_leaves_nulls_out(history: History) -> None:
    row = history.payments.slice(100, 1)
    (payload,) = encode(row)
    event = orjson.loads(payload)
    (expected,) = row.to_pylist()
    assert datetime.fromisoformat(event.pop("event_timestamp")) == expected.pop("event_timestamp")
    assert event == {name: value for name, value in expected.items() if value is not None}


def test_bus_keeps_an_accounts_payments_in_one_partition_and_in_order(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    payments = history.payments.slice(0, 1_500)
    with redis_server(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert publish(client, PAYMENTS, payments, partitions=4) == 1_500
        assert publish(client, STREAMS["labels"], history.labels, partitions=4) == history.labels.num_rows
        for name, table in (
            ("customers", history.customers),
            ("merchants", history.merchants),
            ("charges", history.charges.slice(0, 100)),
        ):
            assert publish(client, STREAMS[name], table, partitions=4) == table.num_rows
            (stream,) = client.keys(f"millstream:{name}:*")
            entries = [orjson.loads(fields[b"v"]) for _, fields in client.xrange(stream)]
            assert [entry["event_id"] for entry in entries] == table["event_id"].to_pylist()
        for partition in range(4):
            entries = client.xrange(f"millstream:payments:{partition}")
            found = [orjson.loads(fields[b"v"])["event_id"] for _, fields in entries]
            mine = [
                p["event_id"] for p in payments.to_pylist() if partition_of(p["account_id"], 4) == partition
            ]
            assert found == mine
        assert client.xlen("millstream:labels:0") == history.labels.num_rows


def test_live_traffic_publishes_every_stream_and_reports_what_it_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    world = World(3, accounts=100, merchants=40, payments_a_day=1_000)
    with redis_server(tmp_path) as url, redis.Redis.from_url(url) as client:
        out = tmp_path / "traffic.json"
        traffic = Traffic(client, world, LABELS.schema.empty_table(), 200.0, 2, out, scores=None, probe=None)
        traffic.run(seconds=1.0, warm_up_seconds=0)
        found = {
            stream: sum(client.xlen(name) for name in client.keys(f"millstream:{stream}:*"))
            for stream in ("payments", "labels", "customers", "merchants", "charges")
        }
        report = orjson.loads(out.read_bytes())
    assert {stream: report[stream] for stream in found} == found
    assert found["customers"] >= 95
    assert found["merchants"] >= 30
    assert 0.4 * found["payments"] < found["charges"] < found["payments"]


def test_world_of_an_earlier_version_says_what_to_do(tmp_path: Path) -> None:
    np.savez(tmp_path / "world.npz", balance=np.zeros(3))
    with pytest.raises(DataError, match="Generate the history again"):
        World.open(tmp_path)


def test_command_line_writes_a_history_that_can_be_continued(tmp_path: Path) -> None:
    command = ["--out", str(tmp_path), "--payments", "3000", "--accounts", "100", "--merchants", "40"]
    result = CliRunner().invoke(app, [*command, "--days", "3", "--until", "2025-02-01"])
    assert result.exit_code == 0, result.output
    written = pq.read_table(tmp_path / "payments.parquet")
    assert written.num_rows == pytest.approx(3_000, rel=0.05)
    assert micros(written).max() < epoch_us(datetime(2025, 2, 1, tzinfo=UTC))
    assert {file.name for file in tmp_path.iterdir()} == {
        "payments.parquet",
        "charges.parquet",
        "customers.parquet",
        "merchants.parquet",
        "labels.parquet",
        "pending_labels.parquet",
        "world.npz",
    }
    assert World.open(tmp_path).places.accounts == 100


@pytest.mark.parametrize("name", ["customers", "merchants", "charges"])
def test_files_say_when_each_row_came_in(tmp_path: Path, name: str) -> None:
    world = World(3, accounts=300, merchants=60, payments_a_day=1_000)
    write_history(world, START, START + timedelta(days=5), tmp_path)
    table = pq.read_table(tmp_path / f"{name}.parquet")
    schema = {
        "customers": customers.CUSTOMERS.schema,
        "merchants": merchants.MERCHANTS.schema,
        "charges": charges.CHARGES.schema,
    }[name]
    assert table.schema.names == [*schema.names, "created_timestamp"]
    created = np.asarray(table["created_timestamp"].cast(pa.int64()))
    assert (created >= micros(table)).all()
