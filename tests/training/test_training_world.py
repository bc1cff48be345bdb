"""A small world of payments whose features lie ready in a table, so that training can be tested without a feature
store.

`TableSource` stands beside `FeastSource` and keeps the same promises; they are tested at the end of this file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.errors import DataError, DefinitionError, SchemaError
from feature_repo.settings import RepoSettings
from feature_repo.streams.labels import LABELS
from feature_repo.streams.payments import PAYMENTS, TYPES
from training.feature_matrix import Feature, FeatureSource, check_features, fetch_features, to_matrix

START = datetime(2026, 9, 1, tzinfo=UTC)
DAY_US = 86_400_000_000
KINDS = ("probe", "spread", "drain")


@dataclass(frozen=True)
class TableSource:
    """Features computed beforehand, one row per payment, in shuffled order as a store may return them."""

    service: str
    features: Sequence[Feature]
    table: pa.Table
    schema_hash: str = "0" * 64
    statements: pa.Table | None = None
    services: Mapping[str, Sequence[str]] = field(default_factory=dict)
    joined_columns: Sequence[str] = ()

    def fetch(self, payments: pa.Table) -> pa.Table:
        place = pa.compute.index_in(self.table["event_id"], value_set=payments["event_id"].combine_chunks())
        return self.table.filter(place.is_valid())

    def labels(self, payments: pa.ChunkedArray, known_at: pa.Array) -> pa.Table:
        said = naive_labels(self.statements.to_pylist() if self.statements else [], payments, known_at)
        return pa.table(
            {
                "is_fraud": pa.array([fraud for fraud, _ in said], pa.bool_()),
                "fraud_type": pa.array([kind for _, kind in said], pa.string()),
            }
        )

    def columns_of(self, service: str) -> Sequence[str]:
        return self.services[service]

    def save_plan(self, path: Path) -> None:
        path.write_text('{"views": []}', encoding="utf-8")


def naive_labels(
    statements: Sequence[dict[str, Any]], payments: pa.ChunkedArray, known_at: pa.Array
) -> list[tuple[bool | None, str | None]]:
    """The definition, one payment at a time: the latest statement by then, of equal times the one accepted last."""
    about: dict[str, list[dict[str, Any]]] = {}
    for statement in statements:
        about.setdefault(statement["payment_id"], []).append(statement)
    said: list[tuple[bool | None, str | None]] = []
    for payment, at in zip(payments.to_pylist(), known_at.to_pylist(), strict=True):
        known = [s for s in about.get(payment, ()) if s["event_timestamp"] <= at]
        last = max(known, key=lambda s: (s["event_timestamp"], s["created_timestamp"]), default=None)
        said.append((last["is_fraud"], last["fraud_type"]) if last else (None, None))
    return said


@dataclass(frozen=True)
class World:
    """Logs on disk, and the features of their payments."""

    settings: RepoSettings
    source: TableSource
    payments: pa.Table
    fraud: np.ndarray


def make_world(home: Path, *, rows: int = 12_000, days: int = 30, columns: int = 12, seed: int = 1) -> World:
    """Frauds (about 1 %) are large against the account's habit and drain its balance; the rest of the columns is
    noise.
    """
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, days * DAY_US, rows)) + int(START.timestamp()) * 1_000_000
    fraud = rng.random(rows) < 0.012
    kind = rng.integers(0, 3, rows)
    amount = np.round(rng.lognormal(3.5, 0.9, rows) * np.where(fraud, 6.0, 1.0), 2)
    features = {
        "account_amount_count_1h": rng.poisson(np.where(fraud & (kind != 2), 3.0, 0.6)).astype(np.int64),
        "account_amount_sum_1h": rng.lognormal(3, 1, rows) * np.where(fraud, 4, 1),
        "amount_over_account_mean_1d": amount / 40 * rng.lognormal(0, 0.5, rows),
        "account_balance_share": np.where(fraud, rng.beta(8, 1.5, rows), rng.beta(1, 8, rows)),
        "account_seconds_since_last": np.where(rng.random(rows) < 0.1, np.nan, rng.exponential(9000, rows)),
        **{f"noise_{i}": rng.lognormal(0, 1, rows) for i in range(columns - 5)},
    }
    event_id = pa.array([f"p{i:07d}" for i in range(rows)])
    payments = _table(
        PAYMENTS.log_schema,
        rows,
        event_id=event_id,
        event_timestamp=pa.array(t),
        account_id=pa.array([f"a{i}" for i in rng.integers(0, 500, rows)]),
        merchant_id=pa.array([f"m{i}" for i in rng.integers(0, 80, rows)]),
        type=pa.array(np.array(TYPES)[rng.integers(0, 4, rows)]),
        amount=pa.array(amount),
        currency=pa.array(["EUR"] * rows),
        created_timestamp=pa.array(t),
        source_partition=pa.array(["file:test"] * rows),
        source_offset=pa.array(np.arange(rows)),
    )
    stolen = np.flatnonzero(fraud)
    known = t[stolen] + (np.clip(rng.lognormal(0, 0.7, len(stolen)), 0.05, 5) * DAY_US).astype(np.int64)
    labels = label_log(
        [
            (
                f"p{i:07d}",
                True,
                KINDS[kind[i]],
                START + timedelta(microseconds=int(at) - int(START.timestamp()) * 10**6),
            )
            for i, at in zip(stolen.tolist(), known.tolist(), strict=True)
        ]
    )
    settings = RepoSettings(home=home)
    for folder, table in ((settings.payments_log, payments), (settings.labels_log, labels)):
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "part-0.parquet")
    columns_of = [
        Feature("account_amount_count_1h", "INT64", "account", never_null=True, at_least=0.0),
        *(Feature(name, "DOUBLE", "payment") for name in list(features)[1:]),
    ]
    table = pa.table({"event_id": event_id, **features}).take(pa.array(rng.permutation(rows)))
    names = [feature.name for feature in columns_of]
    smaller = {"payments_alone": names[:3], "and_more": names[:4]}
    source = TableSource("fraud_detection_v1", columns_of, table, statements=labels, services=smaller)
    return World(settings, source, payments, fraud)


def label_log(rows: Sequence[tuple[str, bool, str | None, datetime]]) -> pa.Table:
    """(payment_id, is_fraud, fraud_type, when it became known) to a LABEL_LOG table."""
    at = pa.array([row[3] for row in rows], pa.timestamp("us", "UTC"))
    return _table(
        LABELS.log_schema,
        len(rows),
        label_id=pa.array(
            [f"{row[0]}:{us}" for row, us in zip(rows, at.cast(pa.int64()).to_pylist(), strict=True)]
        ),
        event_timestamp=at,
        payment_id=pa.array([row[0] for row in rows]),
        is_fraud=pa.array([row[1] for row in rows]),
        fraud_type=pa.array([row[2] for row in rows], pa.string()),
        labeler=pa.array(["chargeback"] * len(rows)),
        created_timestamp=at,
        source_partition=pa.array(["file:test"] * len(rows)),
        source_offset=pa.array(range(len(rows))),
    )


def _table(schema: pa.Schema, rows: int, **columns: pa.Array) -> pa.Table:
    return pa.table(
        [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema],
        schema=schema,
    )


def _source(
    *rows: tuple[str, float | None], features: Sequence[Feature] = (Feature("x", "DOUBLE"),)
) -> FeatureSource:
    return TableSource(
        "s",
        features,
        pa.table({"event_id": [r[0] for r in rows], "x": pa.array([r[1] for r in rows], pa.float64())}),
    )


def _asked(*ids: str) -> pa.Table:
    return pa.table({"event_id": list(ids)})


def test_features_come_back_in_the_order_of_the_payments_whatever_the_order_of_the_store() -> None:
    fetched = fetch_features(_source(("b", 2.0), ("a", 1.0)), _asked("a", "b"))
    assert fetched["x"].to_pylist() == [1.0, 2.0]


def test_a_lost_row_is_an_error_that_says_how_many() -> None:
    with pytest.raises(DataError, match="2 payments in, 1 rows out"):
        fetch_features(_source(("a", 1.0)), _asked("a", "b"))


def test_a_repeated_payment_is_an_error() -> None:
    with pytest.raises(DataError, match="repeated event_ids"):
        fetch_features(_source(("a", 1.0), ("a", 2.0)), _asked("a", "a"))


def test_a_column_that_did_not_come_back_is_named() -> None:
    with pytest.raises(SchemaError, match="columns y are missing in the result"):
        fetch_features(_source(("a", 1.0), features=[Feature("y", "DOUBLE")]), _asked("a"))


def test_a_text_feature_is_refused_by_name_with_its_view_and_what_to_do() -> None:
    told = r"card_network is STRING.*\(in feature service s, view charge\)\. Leave it out.*card_network_is_"
    with pytest.raises(DefinitionError, match=told):
        check_features([Feature("card_network", "STRING", "charge")], where="feature service s")


def test_null_and_nan_are_both_missing_and_booleans_are_numbers() -> None:
    table = pa.table({"a": pa.array([1, None]), "b": [float("nan"), 2.5], "c": [True, False]})
    matrix = to_matrix(table)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[1, np.nan, 1], [np.nan, 2.5, 0]])
