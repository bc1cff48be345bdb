"""Bytes into columns: one bad record never touches its neighbours."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.errors import SchemaError
from feature_repo.streams.labels import LABELS
from feature_repo.streams.payments import PAYMENTS
from flows.accept.decode import Decoder
from flows.blocks import TIMESTAMP, ArrowBlock, Events, RawBlock
from tests.kits.payments import as_table, encoded, payment

decode = Decoder(PAYMENTS)


def block(payloads: list[bytes]) -> RawBlock:
    n = len(payloads)
    return RawBlock("bus:payments:0", -1, np.arange(n) * 10, np.arange(n) + 1_700_000_000_000_000, payloads)


def letters(events: Events) -> list[dict[str, Any]]:
    return [row for batch in events.dead for row in batch.to_pylist()]


def test_good_block_keeps_values_order_and_place() -> None:
    events = decode(block([encoded(payment(n)) for n in (3, 1, 2)]))
    assert events.rows.schema.equals(PAYMENTS.decoded)
    assert events.rows["event_id"].to_pylist() == ["p0000000003", "p0000000001", "p0000000002"]
    assert events.rows["source_offset"].to_pylist() == [0, 10, 20]
    assert events.rows["event_timestamp"][0].value == 1793491203000000
    assert events.rows["created_timestamp"][1].value == 1_700_000_000_000_001
    assert events.rows["latitude"].null_count == 3
    assert events.dead == ()


def _with(**changes: Any) -> bytes:
    return encoded(payment(1, **changes))


_HOSTILE = {
    "empty": (b"", "malformed"),
    "cut off": (b'{"event_id": "a', "malformed"),
    "not UTF-8": (_with().replace(b"EUR", b"\xff\xfe"), "malformed"),
    "lone surrogate": (_with().replace(b"EUR", b"\\ud800"), "malformed"),
    "NaN": (_with().replace(b"1.25", b"NaN"), "malformed"),
    "infinity": (_with().replace(b"1.25", b"Infinity"), "malformed"),
    "number beyond doubles": (_with().replace(b"1.25", b"1e400"), "schema"),
    "two objects": (_with() + _with(), "malformed"),
    "two objects in lines": (_with() + b"\n" + _with(), "malformed"),
    "array": (b"[1, 2]", "schema"),
    "null": (b"null", "schema"),
    "deep nesting": (b'{"a":' * 50_000, "malformed"),
    "missing field": (_with(amount=...), "schema"),
    "null in a required field": (_with(amount=None), "schema"),
    "text for a number": (_with(amount="12"), "schema"),
    "number for a text": (_with(account_id=12), "schema"),
    "object for a text": (_with(account_id={"a": 1}), "schema"),
    "time without a zone": (_with(event_timestamp="2026-11-01T00:00:00"), "schema"),
    "time as a number": (_with(event_timestamp=1_790_000_000), "schema"),
    "no time at all": (_with(event_timestamp="soon"), "schema"),
    "time pandas cannot hold": (_with(event_timestamp="9999-01-01T00:00:00Z"), "schema"),
    "raw newline in a text": (_with().replace(b"EUR", b"E\nR"), "malformed"),
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_record_becomes_a_dead_letter_and_its_neighbours_pass(name: str) -> None:
    payload, reason = _HOSTILE[name]
    events = decode(block([encoded(payment(7)), payload, encoded(payment(8))]))
    assert events.rows["event_id"].to_pylist() == ["p0000000007", "p0000000008"]
    assert events.rows["source_offset"].to_pylist() == [0, 20]
    (letter,) = letters(events)
    assert (letter["reason"], letter["payload"], letter["source_offset"]) == (reason, payload, 10)
    assert letter["detail"]


def test_detail_names_the_field_and_the_value() -> None:
    (letter,) = letters(decode(block([_with(amount="12")])))
    assert "$.amount" in letter["detail"]
    assert "'12'" in letter["detail"]


@pytest.mark.parametrize(
    "payload",
    [
        _with(note={"nested": [1, {"deep": None}]}),
        _with(account_id="Ünïcødé 口座 🎉"),
        json.dumps(payment(1), indent=2).encode(),
        _with(event_timestamp="2026-11-01T02:00:01.000000+02:00"),
        _with(amount=1),
        _with(latitude=None),
    ],
)
def test_unusual_but_valid_record_passes(payload: bytes) -> None:
    events = decode(block([payload]))
    assert events.rows.num_rows == 1
    assert events.rows["event_timestamp"][0].value == 1793491201000000


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_FIELDS = st.sampled_from([*PAYMENTS.schema.names, "unknown"])
_RECORD = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda n, c: encoded(payment(n) | c), st.integers(0, 99), st.dictionaries(_FIELDS, _JSON, max_size=2)
    ),
    st.builds(
        lambda n, at, junk: encoded(payment(n))[:at] + junk,
        st.integers(0, 99),
        st.integers(0, 200),
        st.binary(max_size=3),
    ),
    st.builds(lambda n: encoded(payment(n)), st.integers(0, 99)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_RECORD, max_size=8))
def test_verdict_on_a_record_does_not_depend_on_its_neighbours(payloads: list[bytes]) -> None:
    together = decode(block(payloads))
    assert together.rows.num_rows + len(letters(together)) == len(payloads)
    together.rows.validate(full=True)
    alone = [decode(block([payload])) for payload in payloads]
    assert [
        r for e in alone for r in e.rows.drop_columns(["source_offset", "created_timestamp"]).to_pylist()
    ] == (together.rows.drop_columns(["source_offset", "created_timestamp"]).to_pylist())
    assert [(x["reason"], x["payload"]) for e in alone for x in letters(e)] == [
        (x["reason"], x["payload"]) for x in letters(together)
    ]


def test_labels_are_decoded_by_their_own_schema() -> None:
    label = {
        "label_id": "p1:5",
        "event_timestamp": "2026-11-01T00:00:00Z",
        "payment_id": "p1",
        "is_fraud": True,
        "labeler": "chargeback",
    }
    payloads = [encoded(label), encoded(label | {"is_fraud": "yes"})]
    events = Decoder(LABELS)(RawBlock("bus:labels:0", -1, np.arange(2), np.arange(2), payloads))
    assert events.rows["is_fraud"].to_pylist() == [True]
    assert "is_fraud" in letters(events)[0]["detail"]


def arrow_block(table: pa.Table) -> ArrowBlock:
    return ArrowBlock("file:x:0", -1, 100, table.combine_chunks().to_batches()[0])


def test_columnar_block_is_cast_and_missing_optional_columns_are_null() -> None:
    table = as_table([payment(1), payment(2)]).drop_columns(["latitude", "device_id"])
    table = table.set_column(5, "amount", pa.array([1, 2], pa.int32()))
    table = table.set_column(
        1, "event_timestamp", table["event_timestamp"].cast(pa.timestamp("ns", "Europe/Berlin"))
    )
    events = decode(arrow_block(table))
    assert events.rows.schema.equals(PAYMENTS.decoded)
    assert events.rows["amount"].to_pylist() == [1.0, 2.0]
    assert events.rows["latitude"].null_count == 2
    assert events.rows["source_offset"].to_pylist() == [100, 101]
    assert events.rows["created_timestamp"].equals(events.rows["event_timestamp"])


def test_created_timestamp_of_a_file_is_kept() -> None:
    table = as_table([payment(1)])
    created = pa.array([1_800_000_000_000_000], pa.timestamp("us", "UTC"))
    events = decode(arrow_block(table.append_column("created_timestamp", created)))
    assert events.rows["created_timestamp"][0].value == 1_800_000_000_000_000


def test_nan_in_a_file_counts_as_null() -> None:
    table = as_table([payment(1)]).set_column(11, "latitude", pa.array([float("nan")]))
    assert decode(arrow_block(table)).rows["latitude"].null_count == 1


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("amount", pa.array(["1"]), "column amount is string"),
        ("event_timestamp", pa.array([1], pa.timestamp("us")), "column event_timestamp is timestamp"),
        ("account_id", pa.array([1]), "column account_id is int64"),
    ],
)
def test_file_with_a_column_of_a_wrong_type_is_refused(column: str, values: pa.Array, message: str) -> None:
    table = as_table([payment(1)])
    with pytest.raises(SchemaError, match=message):
        decode(arrow_block(table.set_column(table.schema.get_field_index(column), column, values)))


def test_file_without_a_required_column_is_refused() -> None:
    with pytest.raises(SchemaError, match="no column amount"):
        decode(arrow_block(as_table([payment(1)]).drop_columns(["amount"])))


def test_row_of_a_file_with_broken_text_becomes_a_dead_letter() -> None:
    table = as_table([payment(1), payment(2)])
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"a1\xff\xfe")]
    )
    events = decode(arrow_block(table.set_column(2, "account_id", broken)))
    assert events.rows["event_id"].to_pylist() == ["p0000000001"]
    assert letters(events)[0]["reason"] == "malformed"


def test_letter_of_a_time_nobody_can_read_has_the_time_it_was_accepted() -> None:
    (letter,) = letters(decode(block([_with(event_timestamp="0000-01-01T00:00:00Z")])))
    assert letter["event_timestamp"].isoformat() == "2023-11-14T22:13:20+00:00"


def test_row_of_a_file_with_a_time_nobody_can_read_becomes_a_letter_that_can_be_read() -> None:
    table = as_table([payment(1), payment(2)])
    wild = pa.array([1_793_491_201_000_000, 2**61], pa.int64()).cast(TIMESTAMP)
    rows = table.set_column(table.schema.get_field_index("event_timestamp"), "event_timestamp", wild)
    events = decode(ArrowBlock("file:x:0", -1, 0, rows.combine_chunks().to_batches()[0]))
    (letter,) = letters(events)
    assert (letter["event_timestamp"], letter["source_offset"]) == (None, 1)
    assert json.loads(letter["payload"])["event_timestamp"] == 2**61
