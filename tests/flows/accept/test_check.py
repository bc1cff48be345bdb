"""Row checks: compiled from the suite that also gates batches, with the same verdict as Great Expectations itself."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from great_expectations.core import ExpectationSuite
from great_expectations.data_context import get_context

from feature_repo.errors import DefinitionError
from feature_repo.streams.labels import LABELS
from feature_repo.streams.payments import PAYMENTS
from flows.accept.check import SUPPORTED, Checker, compile_suite
from flows.accept.decode import Decoder
from flows.blocks import Events, RawBlock
from flows.streams import EventStream
from tests.kits.payments import encoded, payment


def checked(*changes: dict[str, Any]) -> Events:
    payloads = [encoded(payment(n, **change)) for n, change in enumerate(changes)]
    n = len(payloads)
    block = RawBlock("bus:payments:0", -1, np.arange(n), np.arange(n), payloads)
    return Checker(compile_suite(PAYMENTS.suite, PAYMENTS.schema))(Decoder(PAYMENTS)(block))


def letters(events: Events) -> list[dict[str, Any]]:
    return [row for batch in events.dead for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"amount": -0.01}, "amount: -0.01 is not between 0 and"),
        ({"amount": 1.1e12}, "amount: 1100000000000.0 is not between"),
        ({"event_id": ""}, "event_id: '' does not have 1 to 128 characters"),
        ({"account_id": "a" * 129}, "(131 characters) does not have 1 to 128"),
        ({"merchant_id": ""}, "merchant_id"),
        ({"type": "GIFT"}, "type: 'GIFT' is not one of PAYMENT, TRANSFER"),
        ({"currency": "eur"}, "currency: 'eur' does not match"),
        ({"currency": "EUR\n"}, "currency: 'EUR\\n' does not have 3 to 3 characters"),
        ({"latitude": 90.001}, "latitude: 90.001 is not between -90 and 90"),
        ({"longitude": -181}, "longitude: -181.0"),
        ({"account_balance_before": 1e16}, "account_balance_before"),
    ],
)
def test_row_that_breaks_a_rule_becomes_a_dead_letter_naming_field_and_value(
    change: dict[str, Any], detail: str
) -> None:
    events = checked({}, change, {})
    assert events.rows["source_offset"].to_pylist() == [0, 2]
    (letter,) = letters(events)
    assert (letter["reason"], letter["source_offset"]) == ("check", 1)
    assert detail in letter["detail"]
    assert json.loads(letter["payload"])["event_id"] is not None


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 0},
        {"amount": 1e12},
        {"account_id": "口" * 128},
        {"latitude": -90, "longitude": 180},
        {"account_balance_before": -50.0},
    ],
)
def test_row_at_the_edge_of_a_rule_passes(change: dict[str, Any]) -> None:
    assert checked(change).dead == ()


def test_row_that_breaks_two_rules_says_both() -> None:
    (letter,) = letters(checked({"amount": -1, "type": "x"}))
    assert "type: 'x'" in letter["detail"]
    assert "amount: -1.0" in letter["detail"]


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("expect_column_values_to_be_unique", {"column": "event_id"}),
        ("expect_column_values_to_not_be_null", {"column": "no_such_column"}),
        ("expect_column_values_to_not_be_null", {"column": "amount", "mostly": 0.9}),
        ("expect_column_values_to_be_between", {"column": "amount"}),
        ("expect_column_values_to_be_between", {"column": "type", "min_value": 1}),
        (
            "expect_column_values_to_be_between",
            {"column": "amount", "min_value": 1, "allow_cross_type": True},
        ),
        ("expect_column_values_to_match_regex", {"column": "type", "regex": "(?<=lookbehind)"}),
    ],
)
def test_expectation_that_cannot_be_a_row_check_is_an_error_at_start(
    kind: str, kwargs: dict[str, Any]
) -> None:
    with pytest.raises(DefinitionError, match=kind):
        compile_suite({"name": "s", "expectations": [{"type": kind, "kwargs": kwargs}]}, PAYMENTS.schema)


def _bad_payments(rows: int) -> pd.DataFrame:
    """Rows of which most break some rule, every rule among them."""
    draw = np.random.default_rng(7)
    texts = [
        "",
        "a",
        "EUR",
        "eur",
        "EUR\n",
        "x" * 128,
        "x" * 129,
        "口" * 128,
        "PAYMENT",
        "TRANSFER",
        "probe",
        "app",
        None,
    ]
    numbers = [
        0.0,
        -0.01,
        1.5,
        90.0,
        90.5,
        -180.0,
        181.0,
        1e12,
        1.1e12,
        1e15,
        2e15,
        math.inf,
        -math.inf,
        math.nan,
    ]
    columns: dict[str, Any] = {}
    for field in PAYMENTS.schema:
        if field.type == pa.string():
            columns[field.name] = draw.choice(np.array(texts, object), rows)
        elif field.type == pa.float64():
            columns[field.name] = draw.choice(numbers, rows)
        else:
            columns[field.name] = pd.to_datetime(
                np.where(draw.random(rows) < 0.2, None, 1_790_000_000_000_000), unit="us", utc=True
            )
    return pd.DataFrame(columns)


def _bad_labels(rows: int) -> pd.DataFrame:
    draw = np.random.default_rng(8)
    texts = np.array(["", "p1", "probe", "drain", "other", "x" * 129, "x" * 161, None], object)
    columns: dict[str, Any] = {
        f.name: draw.choice(texts, rows) for f in LABELS.schema if f.type == pa.string()
    }
    columns["is_fraud"] = draw.choice(np.array([True, False, None], object), rows)
    columns["event_timestamp"] = pd.to_datetime(
        np.where(draw.random(rows) < 0.2, None, 1_790_000_000_000_000), unit="us", utc=True
    )
    return pd.DataFrame(columns)[[f.name for f in LABELS.schema]]


@pytest.mark.parametrize(
    ("stream", "frame"),
    [(PAYMENTS, _bad_payments(400)), (LABELS, _bad_labels(400))],
    ids=["payments", "labels"],
)
def test_great_expectations_gives_the_same_verdict_on_every_row(
    stream: EventStream, frame: pd.DataFrame
) -> None:
    suite = ExpectationSuite(**stream.suite)
    context = get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    batch = (
        context.data_sources.add_pandas("p")
        .add_dataframe_asset("a")
        .add_batch_definition_whole_dataframe("b")
        .get_batch({"dataframe": frame})
    )
    result = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    rows = pa.RecordBatch.from_pandas(frame, schema=stream.schema, preserve_index=False)
    checks = compile_suite(stream.suite, stream.schema)
    assert len(result.results) == len(checks)
    by_rule: dict[tuple[str, str], list[list[int]]] = {}
    for one in result.results:
        assert one.exception_info.get("raised_exception", False) is False, one.exception_info
        key = (one.expectation_config.type, one.expectation_config.kwargs["column"])
        by_rule.setdefault(key, []).append(sorted(one.result["unexpected_index_list"]))
    compiled: dict[tuple[str, str], list[list[int]]] = {}
    for check, about in zip(checks, stream.suite["expectations"], strict=True):
        mask = check.failing(rows.column(check.column))
        failing = [] if mask is None else np.flatnonzero(mask).tolist()
        compiled.setdefault((about["type"], check.column), []).append(failing)
    for key, verdicts in by_rule.items():
        assert sorted(compiled[key]) == sorted(verdicts), key
    assert sum(bool(v) for verdicts in compiled.values() for v in verdicts) > len(checks) / 2


def test_list_of_supported_expectations_is_what_the_suites_use() -> None:
    used = {e["type"] for stream in (PAYMENTS, LABELS) for e in stream.suite["expectations"]}
    assert used == set(SUPPORTED)
