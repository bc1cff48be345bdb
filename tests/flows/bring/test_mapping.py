"""Somebody else's data: what a mapping does to their rows, and what it says when it cannot."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from feature_repo.errors import DataError, MappingError
from feature_repo.settings import PROJECT_ROOT
from feature_repo.streams.labels import LABELS
from feature_repo.streams.payments import PAYMENTS
from flows.bring import Conversion, convert, load
from flows.bring.command import app

SPARKOV = PROJECT_ROOT.parent / "shared" / "data" / "sparkov_transactions.parquet"

PAYSIM = """\
step,type,amount,nameOrig,oldbalanceOrg,newbalanceOrig,nameDest,oldbalanceDest,newbalanceDest,isFraud,isFlaggedFraud
1,PAYMENT,9839.64,C1231006815,170136.0,160296.36,M1979787155,0.0,0.0,0,0
1,TRANSFER,181.0,C1305486145,181.0,0.0,C553264065,0.0,0.0,1,0
1,CASH_OUT,181.0,C840083671,181.0,0.0,C38997010,21182.0,0.0,1,0
1,DEBIT,5337.77,C712410124,41720.0,36382.23,C195600860,41898.0,40348.79,0,0
2,CASH_IN,4024.36,C1265012928,2671.0,6695.36,C1176932104,0.0,0.0,0,0
"""

HANDBOOK = """\
TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_TIME_SECONDS,TX_TIME_DAYS,TX_FRAUD,TX_FRAUD_SCENARIO
0,2018-04-01 00:00:31,596,3156,57.16,31,0,0,0
1,2018-04-01 00:02:10,4961,3412,81.51,130,0,0,0
2,2018-04-01 00:07:56,2,1365,246.0,476,0,1,1
"""

MAPPING = """\
payment:
  event_id: {template: "x-{row}"}
  event_timestamp: {column: when}
  account_id: {column: who}
  merchant_id: {column: shop, prefix: "m-"}
  type: {constant: PAYMENT}
  amount: {column: cents, divide: 100}
  currency: {constant: USD}
"""

Convert = Callable[..., Conversion]


@pytest.fixture
def bring(tmp_path: Path) -> Convert:
    """Convert CSV text by a mapping's name or text."""

    def run(csv: str, mapping: str = MAPPING, **options: Any) -> Conversion:
        source, spec = tmp_path / "theirs.csv", tmp_path / "mapping.yaml"
        source.write_text(csv, encoding="utf-8")
        spec.write_text(mapping, encoding="utf-8")
        return convert(
            source, load(mapping if "\n" not in mapping else str(spec)), tmp_path / "out", **options
        )

    return run


def payments(result: Conversion) -> list[dict[str, Any]]:
    return list(pq.read_table(result.events).to_pylist())


def labels(result: Conversion) -> list[dict[str, Any]]:
    return list(pq.read_table(result.labels).to_pylist())


def test_paysim_rows_become_payments_with_balances(bring: Convert) -> None:
    first = payments(bring(PAYSIM, "paysim"))[0]
    assert first["account_id"] == "C1231006815"
    assert first["merchant_id"] == "M1979787155"
    assert (first["type"], first["amount"], first["currency"]) == ("PAYMENT", 9839.64, "USD")
    assert (first["account_balance_before"], first["account_balance_after"]) == (170136.0, 160296.36)


def test_paysim_rows_of_one_hour_keep_their_order_at_instants_of_their_own(bring: Convert) -> None:
    times = [p["event_timestamp"] for p in payments(bring(PAYSIM, "paysim"))]
    hour_1, hour_2 = datetime(2025, 1, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, 2, tzinfo=UTC)
    assert times == [hour_1 + timedelta(minutes=15 * i) for i in range(4)] + [hour_2]


def test_paysim_spread_continues_across_batches(bring: Convert) -> None:
    times = [p["event_timestamp"] for p in payments(bring(PAYSIM, "paysim", batch_rows=3))]
    assert times == sorted(set(times))
    assert len(times) == 5


def test_paysim_fraud_gets_a_label_after_the_delay(bring: Convert) -> None:
    result = bring(PAYSIM, "paysim")
    by_id = {p["event_id"]: p for p in payments(result)}
    found = labels(result)
    assert {label["payment_id"] for label in found} == {"paysim-1", "paysim-2"}
    for label in found:
        delay = label["event_timestamp"] - by_id[label["payment_id"]]["event_timestamp"]
        assert timedelta(0) < delay <= timedelta(days=5)
        assert label["is_fraud"]
        assert label["fraud_type"] is None


def test_handbook_rows_become_payments_without_balances_or_places(bring: Convert) -> None:
    result = bring(HANDBOOK, "handbook")
    third = payments(result)[2]
    assert (third["event_id"], third["account_id"], third["merchant_id"]) == ("handbook-2", "c-2", "t-1365")
    assert third["event_timestamp"] == datetime(2018, 4, 1, 0, 7, 56, tzinfo=UTC)
    assert third["account_balance_before"] is None
    assert third["latitude"] is None
    (label,) = labels(result)
    assert label["event_timestamp"] == third["event_timestamp"] + timedelta(days=7)
    assert label["label_id"] == f"handbook-2:{int(label['event_timestamp'].timestamp()) * 1_000_000}"


@pytest.mark.skipif(not SPARKOV.exists(), reason=f"{SPARKOV.name} is not beside this checkout")
def test_sparkov_file_comes_in_by_its_shipped_mapping(tmp_path: Path) -> None:
    result = convert(SPARKOV, load("sparkov"), tmp_path, limit=50_000)
    table = pq.read_table(result.events)
    assert (result.rows, result.kept, result.reasons, result.notices) == (50_000, 50_000, {}, [])
    assert table.schema.equals(PAYMENTS.schema)
    assert set(table["channel"].to_pylist()) == {"pos", "web"}
    assert pq.read_table(result.labels).num_rows == result.frauds > 100


def test_files_have_the_canonical_schemas_even_when_empty(bring: Convert) -> None:
    result = bring("when,who,shop,cents\n")
    assert pq.read_schema(result.events).equals(PAYMENTS.schema)
    assert pq.read_schema(result.labels).equals(LABELS.schema)


def test_rows_out_of_order_come_out_sorted_and_ties_keep_their_order(bring: Convert) -> None:
    csv = "when,who,shop,cents\n2025-01-03,a,1,1\n2025-01-02,b,1,1\n2025-01-02,c,1,1\n2025-01-01,d,1,1\n"
    assert [p["account_id"] for p in payments(bring(csv))] == ["d", "b", "c", "a"]


def test_minor_units_become_major(bring: Convert) -> None:
    assert payments(bring("when,who,shop,cents\n2025-01-01,a,1,1999\n"))[0]["amount"] == 19.99


@pytest.mark.parametrize(
    ("time", "given", "expected"),
    [
        ("{column: when}", "2025-01-01T10:00:00", "2025-01-01T10:00:00+00:00"),
        ("{column: when}", "2025-01-01T10:00:00.123456+02:00", "2025-01-01T08:00:00.123456+00:00"),
        ("{column: when}", "2025-01-01 10:00:00Z", "2025-01-01T10:00:00+00:00"),
        ("{column: when, timezone: Europe/Paris}", "2025-07-01 10:00:00", "2025-07-01T08:00:00+00:00"),
        ("{column: when, timezone: Europe/Paris}", "2025-03-30 02:30:00", "2025-03-30T01:00:00+00:00"),
        ('{column: when, format: "%d.%m.%Y %H:%M"}', "31.12.2024 23:59", "2024-12-31T23:59:00+00:00"),
        ("{column: when, unit: s}", "1735689600", "2025-01-01T00:00:00+00:00"),
        ("{column: when, unit: ms}", "1735689600123", "2025-01-01T00:00:00.123000+00:00"),
        ("{column: when, unit: days, start: 2025-01-01}", "1.5", "2025-01-02T12:00:00+00:00"),
    ],
)
def test_times_of_many_forms_become_utc(bring: Convert, time: str, given: str, expected: str) -> None:
    result = bring(f"when,who,shop,cents\n{given},a,1,1\n", MAPPING.replace("{column: when}", time))
    assert payments(result)[0]["event_timestamp"] == datetime.fromisoformat(expected)


def test_unreadable_rows_are_set_aside_with_row_column_value_and_reason(bring: Convert) -> None:
    good = "2025-01-01,a,1,100\n"
    csv = (
        f"when,who,shop,cents\n{good * 3}yesterday,b,1,100\n{good}2025-01-01,c,1,ten\n2025-01-01,,1,1\n{good}"
    )
    result = bring(csv)
    assert (result.rows, result.kept) == (8, 5)
    assert result.reasons == {
        "when is not a time": 1,
        "cents is not a number": 1,
        "account_id is empty": 1,
    }
    rows = [orjson.loads(line) for line in result.rejected.read_bytes().splitlines()]
    assert {(row["row"], row["column"], row["value"]) for row in rows} == {
        (3, "when", "yesterday"),
        (5, "cents", "ten"),
        (6, "account_id", None),
    }


def test_mapping_that_fits_no_row_stops_at_once(bring: Convert) -> None:
    with pytest.raises(MappingError, match="row 0: when 'noon' is not a time"):
        bring("when,who,shop,cents\n" + "noon,a,1,1\n" * 10)


def test_unknown_required_column_names_its_nearest(bring: Convert) -> None:
    with pytest.raises(MappingError, match=r"payment.amount wants the column 'cents'.*Did you mean 'cent'"):
        bring("when,who,shop,cent\n2025-01-01,a,1,1\n")


def test_missing_optional_column_becomes_null_with_a_notice(bring: Convert) -> None:
    result = bring(
        "when,who,shop,cents,latitude\n2025-01-01,a,1,1,52.5\n", MAPPING + "  latitude: {column: lattitude}\n"
    )
    assert payments(result)[0]["latitude"] is None
    assert "did you mean 'latitude'" in result.notices[0]


def test_empty_optional_value_is_null_and_no_reason_to_refuse_the_row(bring: Convert) -> None:
    mapping = MAPPING + "  latitude: {column: lat}\n  device_id: {column: device}\n"
    (payment,) = payments(bring("when,who,shop,cents,lat,device\n2025-01-01,a,1,1,, \n", mapping))
    assert payment["latitude"] is None
    assert payment["device_id"] is None


def test_values_translate_and_unknown_ones_reject_their_row(bring: Convert) -> None:
    kinds = MAPPING.replace("{constant: PAYMENT}", "{column: kind, values: {1: PAYMENT, CASH-IN: CASH_IN}}")
    csv = "when,who,shop,cents,kind\n2025-01-01,a,1,1,1\n2025-01-02,a,1,1,CASH-IN\n2025-01-03,a,1,1,GIFT\n"
    result = bring(csv, kinds)
    assert [p["type"] for p in payments(result)] == ["PAYMENT", "CASH_IN"]
    assert result.reasons == {"kind is not among the mapping's values": 1}


def test_otherwise_catches_unknown_values(bring: Convert) -> None:
    kinds = MAPPING.replace("{constant: PAYMENT}", "{column: kind, values: {c: CASH_IN}, otherwise: DEBIT}")
    result = bring("when,who,shop,cents,kind\n2025-01-01,a,1,1,c\n2025-01-02,a,1,1,\n", kinds)
    assert [p["type"] for p in payments(result)] == ["CASH_IN", "DEBIT"]


def test_label_words_and_delay_and_kind_are_mapped(bring: Convert) -> None:
    mapping = MAPPING + (
        "label:\n  is_fraud: {column: bad}\n  delay: {fixed: 36h}\n"
        "  fraud_type: {column: how, values: {takeover: drain}}\n"
    )
    csv = "when,who,shop,cents,bad,how\n2025-01-01,a,1,1,Yes,takeover\n2025-01-01,a,1,1,no,\n2025-01-01,a,1,1,,\n"
    result = bring(csv, mapping)
    (label,) = labels(result)
    assert label["event_timestamp"] == datetime(2025, 1, 2, 12, tzinfo=UTC)
    assert (label["payment_id"], label["fraud_type"]) == ("x-0", "drain")


def test_limit_and_until_bound_what_comes_in(bring: Convert) -> None:
    csv = "when,who,shop,cents\n" + "".join(f"2025-01-0{day},a,1,1\n" for day in range(1, 9))
    assert bring(csv, limit=3).kept == 3
    assert bring(csv, until=datetime(2025, 1, 6, tzinfo=UTC)).kept == 5


def test_same_file_and_mapping_give_the_same_labels(bring: Convert) -> None:
    assert labels(bring(PAYSIM, "paysim")) == labels(bring(PAYSIM, "paysim"))


def test_parquet_with_dictionaries_and_naive_times_is_read_like_csv(tmp_path: Path) -> None:
    theirs = pa.table(
        {
            "when": pa.array([1_735_689_600_000], pa.timestamp("ms")),
            "who": pa.array(["a"]).dictionary_encode(),
            "shop": pa.array([7], pa.int16()),
            "cents": pa.array([250], pa.int64()),
        }
    )
    pq.write_table(theirs, tmp_path / "theirs.parquet")
    (tmp_path / "m.yaml").write_text(MAPPING, encoding="utf-8")
    result = convert(tmp_path / "theirs.parquet", load(str(tmp_path / "m.yaml")), tmp_path / "out")
    (payment,) = payments(result)
    assert (payment["account_id"], payment["merchant_id"], payment["amount"]) == ("a", "m-7", 2.5)
    assert payment["event_timestamp"] == datetime(2025, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (MAPPING.replace("currency:", "curency:"), "curency is not a known key, did you mean 'currency'"),
        (MAPPING.replace("{column: who}", "{column: who, constant: a}"), "exactly one of column, constant"),
        (MAPPING.replace("{column: when}", "{column: when, timezone: Mars/Base}"), "unknown time zone"),
        (MAPPING.replace("x-{row}", "x-{row.__class__}"), "not a plain column name"),
        (MAPPING.replace("{column: when}", "{column: when, spread: true}"), "spread needs unit"),
        (MAPPING + "label:\n  is_fraud: {column: bad}\n  delay: {fixed: soon}\n", "cannot read the duration"),
        ("payment: [", "not YAML"),
    ],
)
def test_wrong_mapping_says_what_is_wrong_with_it(tmp_path: Path, wrong: str, said: str) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(wrong, encoding="utf-8")
    with pytest.raises(MappingError, match=said):
        load(str(path))


def test_unknown_mapping_names_its_nearest() -> None:
    with pytest.raises(MappingError, match="Did you mean 'paysim'"):
        load("paysimm")


def test_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        convert(tmp_path / "none.csv", load("paysim"), tmp_path)


def test_brought_file_ends_up_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_HOME", str(tmp_path / "home"))
    source = tmp_path / "paysim.csv"
    source.write_text(PAYSIM, encoding="utf-8")
    result = CliRunner().invoke(app, [str(source), "--mapping", "paysim"])
    assert result.exit_code == 0, result.output
    logged = pq.read_table(tmp_path / "home" / "log" / "payments")
    known = pq.read_table(tmp_path / "home" / "log" / "labels")
    assert sorted(logged["event_id"].to_pylist()) == [f"paysim-{row}" for row in range(5)]
    assert set(known["payment_id"].to_pylist()) == {"paysim-1", "paysim-2"}
