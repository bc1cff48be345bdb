"""The generated world: reproducible, continuable, consistent to the cent, and with labels as late as in life."""

from datetime import UTC, datetime, timedelta
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
from feature_repo.schemas.label import FRAUD_TYPES, LABEL
from feature_repo.schemas.payment import PAYMENT, REQUIRED, TYPES
from flows.generate import app
from flows.generator import Events, History, World, epoch_us, generate, live, split_labels
from flows.generator.bus import encode, partition_of, publish_labels, publish_payments
from flows.stack import redis_server

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = 10
SMALL: dict[str, Any] = {"accounts": 300, "merchants": 60, "payments": 12_000}


@pytest.fixture(scope="module")
def history() -> History:
    return generate(7, START, DAYS, **SMALL)


def micros(table: pa.Table) -> np.ndarray[Any, Any]:
    return np.asarray(table["event_timestamp"].cast(pa.int64()))


def test_same_seed_makes_the_same_history(history: History) -> None:
    again = generate(7, START, DAYS, **SMALL)
    assert again.payments.equals(history.payments)
    assert again.labels.equals(history.labels)


def test_another_seed_makes_another_history(history: History) -> None:
    other = generate(8, START, DAYS, **SMALL)
    assert not other.payments["amount"].equals(history.payments["amount"])


def test_tables_have_the_canonical_schemas(history: History) -> None:
    assert history.payments.schema.equals(PAYMENT)
    assert history.labels.schema.equals(LABEL)


def test_required_columns_are_never_null(history: History) -> None:
    assert {name: history.payments[name].null_count for name in REQUIRED} == dict.fromkeys(REQUIRED, 0)


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
    frauds = sum(len(block.labels["payment_id"].unique()) for block in blocks)
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
        assert publish_payments(client, payments, partitions=4) == 1_500
        assert publish_labels(client, history.labels) == history.labels.num_rows
        for partition in range(4):
            entries = client.xrange(f"millstream:payments:{partition}")
            found = [orjson.loads(fields[b"v"])["event_id"] for _, fields in entries]
            mine = [
                p["event_id"] for p in payments.to_pylist() if partition_of(p["account_id"], 4) == partition
            ]
            assert found == mine
        assert client.xlen("millstream:labels:0") == history.labels.num_rows


def test_command_line_writes_a_history_that_can_be_continued(tmp_path: Path) -> None:
    command = ["--out", str(tmp_path), "--payments", "3000", "--accounts", "100", "--merchants", "40"]
    result = CliRunner().invoke(app, [*command, "--days", "3", "--until", "2025-02-01"])
    assert result.exit_code == 0, result.output
    written = pq.read_table(tmp_path / "payments.parquet")
    assert written.num_rows == pytest.approx(3_000, rel=0.05)
    assert micros(written).max() < epoch_us(datetime(2025, 2, 1, tzinfo=UTC))
    assert {file.name for file in tmp_path.iterdir()} == {
        "payments.parquet",
        "labels.parquet",
        "pending_labels.parquet",
        "world.npz",
    }
    assert World.open(tmp_path).places.accounts == 100
