"""The compiled pass over JSON says what the full parser says of everything it takes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_repo.declare.stream import EventStream, boolean, integer, number, text, time
from feature_repo.streams.payments import PAYMENTS
from flows.accept.decode import Decoder
from flows.accept.json_columns import JsonColumns
from flows.blocks import Events, Payloads, RawBlock
from tests.kits.payments import encoded, payment

STREAM = EventStream(
    name="x",
    grain="one row per event",
    id_column="id",
    partition_by="id",
    columns=(
        text("id", "Identity"),
        time("event_timestamp", "When it happened"),
        number("amount", "A number", null="none"),
        integer("number", "A whole number", null="none"),
        boolean("fine", "A truth value", null="none"),
    ),
)
SCHEMA = STREAM.schema


def block(payloads: list[bytes]) -> RawBlock:
    places = np.arange(len(payloads))
    return RawBlock("bus:x:0", -1, places, places + 1_793_491_200_000_000, payloads)


class Fully(Decoder):
    """The full parser for everything."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(stream)
        read = self._read

        def none(payloads: Payloads) -> Any:
            arrays, good = read(payloads)
            return [array.slice(0, 0) for array in arrays], np.zeros(len(good), bool)

        self._read = none  # type: ignore[assignment]


fast, full = Decoder(STREAM), Fully(STREAM)


def same(events: Events, others: Events) -> None:
    assert events.rows.equals(others.rows)
    assert [letters.to_pylist() for letters in events.dead] == [
        letters.to_pylist() for letters in others.dead
    ]


_digits = st.text("0123456789", min_size=1, max_size=17)
_number = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "-", "+"]),
        _digits,
        st.one_of(st.just(""), _digits.map(".{}".format), st.just(".")),
        st.sampled_from(["", "", "", "e5", "E-3", "e"]),
    ),
)
_two = st.integers(0, 99).map("{:02d}".format)
_time = st.builds(
    "{}-{}-{}{}{}:{}:{}{}{}".format,
    st.sampled_from(["2026", "1969", "1970", "2261", "2262", "2000", "1900", "2100", "2024"]),
    st.sampled_from(["01", "02", "02", "12", "13", "00", "6"]),
    st.sampled_from(["01", "28", "29", "30", "31", "00", "x1"]),
    st.sampled_from(["T", "T", "T", " ", "t"]),
    st.one_of(st.just("12"), _two),
    st.one_of(st.just("30"), _two),
    st.one_of(st.just("59"), _two),
    st.sampled_from(["", ".", ".5", ".123", ".123456", ".1234567", ".12a"]),
    st.sampled_from(["Z", "Z", "Z", "", "+00:00", "+02:00", "z"]),
)
_text = st.one_of(st.text(max_size=6), st.sampled_from(["", "\x7f", "é", "a\\b", 'a"b', "\t"]))
_value = st.one_of(
    _number,
    _time.map(json.dumps),
    _text.map(json.dumps),
    _text.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(
        ["null", "true", "false", "nul", "True", "NaN", "{}", "[1]", '"', "", "-0", "-0.0", "0", "1e400"]
    ),
)
_space = st.sampled_from(["", "", "", " ", "\n", "\t \r", "\x0b"])
_key = st.sampled_from([*SCHEMA.names, *SCHEMA.names, "other", "i\\u0064", "", "amounts"]).map('"{}"'.format)
_pair = st.builds("".join, st.tuples(_space, _key, _space, st.just(":"), _space, _value, _space))


@st.composite
def _object(draw: st.DrawFn) -> bytes:
    """Mostly a good record, with other values, other pairs and other text here and there."""
    values = {
        "id": draw(_text.map(json.dumps)),
        "event_timestamp": draw(st.one_of(st.just('"2026-11-01T12:00:00Z"'), _time.map(json.dumps))),
        "amount": draw(_number),
        "number": draw(st.one_of(st.just("7"), _number)),
        "fine": draw(st.sampled_from(["true", "false", "null"])),
    }
    for name in draw(st.lists(st.sampled_from(sorted(values)), max_size=1)):
        values[name] = draw(_value)
    for name in draw(st.lists(st.sampled_from(sorted(values)), max_size=1)):
        del values[name]
    pairs = [f'{draw(_space)}"{name}":{draw(_space)}{value}' for name, value in values.items()]
    pairs += draw(st.lists(_pair, max_size=1))
    text = draw(_space) + "{" + ",".join(draw(st.permutations(pairs))) + "}" + draw(_space)
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(["", ",", "}", "\x00", " "])) + text[at + 1 :]
    return text.encode("utf-8", "surrogatepass")


@settings(max_examples=400, deadline=None)
@given(st.lists(_object(), min_size=1, max_size=8))
@example([b"{}"])
@example([b'{"id":"a","event_timestamp":"2024-02-29T23:59:59.999999Z","amount":1,"number":-3}'])
@example([b'{"id":"a","event_timestamp":"2026-11-01T00:00:00Z","amount":-0,"number":-0}'])
@example([b'{"id":"a","id":"b","event_timestamp":"2026-11-01T00:00:00Z"}'])
def test_both_parsers_agree(payloads: list[bytes]) -> None:
    same(fast(block(payloads)), full(block(payloads)))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_are_rounded_as_python_rounds_them(values: list[float]) -> None:
    texts = [repr(value) for value in values] + [f"{value:.3f}" for value in values if abs(value) < 1e18]
    payloads = [
        b'{"id":"a","event_timestamp":"2026-11-01T00:00:00Z","amount":%b}' % t.encode() for t in texts
    ]
    read = fast(block(payloads)).rows["amount"].to_pylist()
    assert [repr(value) for value in read] == [repr(float(text)) for text in texts]


def test_a_usual_payment_is_read_by_the_compiled_pass() -> None:
    read = JsonColumns(PAYMENTS.schema, PAYMENTS.required)
    payloads = [encoded(payment(n, latitude=48.137, device_id=None)) for n in range(50)]
    arrays, good = read(Payloads.of(payloads))
    assert good.all()
    assert arrays[0].to_pylist() == [f"p{n:010d}" for n in range(50)]


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_block_may_have_any_size(n: int) -> None:
    assert fast(block([b'{"id":"a","event_timestamp":"2026-11-01T00:00:00Z"}'] * n)).rows.num_rows == n
