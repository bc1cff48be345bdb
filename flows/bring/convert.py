"""A foreign file to canonical Parquet: one row per payment and one per label, each sorted by event_timestamp.

Memory is bounded: the file is read in batches, and DuckDB sorts it on disk if it is not in time order.
"""

from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.declare.stream import TIMESTAMP
from feature_repo.errors import MappingError
from feature_repo.streams.labels import LABELS
from feature_repo.streams.payments import PAYMENTS
from flows.bring.mapping import LabelMapping, Mapping, Time, Value
from flows.bring.reader import Reader, columns_of
from flows.bring.sorted_file import SortedFile
from flows.bring.spread import Spread
from flows.bring.values import Batch, Reject, delays

_HOPELESS = 0.5
"""If more of the first batch than this cannot be read, it is the mapping that is wrong, not the rows."""


@dataclass(slots=True)
class Conversion:
    """What came of a file. `rejected` holds one JSON object per row that is no payment, and why."""

    payments: Path
    labels: Path
    rejected: Path
    rows: int = 0
    kept: int = 0
    frauds: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[Reject] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def convert(
    source: Path,
    mapping: Mapping,
    out: Path,
    *,
    limit: int | None = None,
    until: datetime | None = None,
    batch_rows: int = 65_536,
) -> Conversion:
    """Convert the first `limit` rows, dropping payments at or after `until`; writes into the folder `out`."""
    reader = Reader(source, mapping, limit=limit, batch_rows=batch_rows)
    notices = _checkcolumns_of(mapping, reader.columns, source)
    out.mkdir(parents=True, exist_ok=True)
    result = Conversion(
        out / "payments.parquet", out / "labels.parquet", out / "rejected.jsonl", notices=notices
    )
    spread = Spread(mapping.payment.event_timestamp, reader)
    with (
        SortedFile(result.payments, PAYMENTS.schema) as payments,
        SortedFile(result.labels, LABELS.schema) as labels,
        result.rejected.open("wb") as rejected,
    ):
        for batch in reader.batches():
            table, fraud, fraud_type = _convert_batch(batch, mapping, spread, until)
            _note_rejects(batch, result, rejected, source)
            payments.write(table)
            if mapping.label is not None and fraud.any():
                labels.write(
                    _labels(table.filter(pa.array(fraud)), fraud_type, mapping.label, batch.first_row)
                )
            result.rows += len(batch)
            result.kept += table.num_rows
            result.frauds += int(fraud.sum())
    return result


def _convert_batch(
    batch: Batch, mapping: Mapping, spread: Spread, until: datetime | None
) -> tuple[pa.Table, Any, Any]:
    """Payments of a batch, which of them are frauds, and the frauds' types."""
    columns: list[Any] = []
    for wanted in PAYMENTS.schema:
        how = getattr(mapping.payment, wanted.name)
        if how is None or not batch.has(columns_of(how)):
            columns.append(pa.nulls(len(batch), wanted.type))
        elif isinstance(how, Time):
            columns.append(spread.apply(batch.time(how)))
        elif pa.types.is_floating(wanted.type):
            columns.append(batch.number(how))
        else:
            columns.append(batch.text(how))
        if wanted.name in PAYMENTS.required:
            batch.require(wanted.name, columns[-1])
    table = pa.Table.from_arrays(columns, schema=PAYMENTS.schema)
    fraud = np.zeros(len(batch), np.bool_)
    kinds = pa.nulls(len(batch), pa.string())
    if mapping.label is not None and batch.has(mapping.label.is_fraud.columns):
        fraud = batch.flag(mapping.label.is_fraud)
        if mapping.label.fraud_type is not None and batch.has(mapping.label.fraud_type.columns):
            kinds = batch.text(mapping.label.fraud_type)
    keep = batch.kept()
    table, fraud, kinds = table.take(keep), fraud[keep.to_numpy()], pc.take(kinds, keep)
    if until is not None:
        early = pc.less(table["event_timestamp"], pa.scalar(until, TIMESTAMP)).combine_chunks()
        table, fraud = table.filter(early), fraud[np.asarray(early)]
        kinds = pc.filter(kinds, early)
    return table, fraud, pc.filter(kinds, pa.array(fraud))


def _labels(frauds: pa.Table, kinds: Any, how: LabelMapping, first_row: int) -> pa.Table:
    """Labels of fraudulent payments, at the time they become known."""
    n = frauds.num_rows
    at = frauds["event_timestamp"].cast(pa.int64()).to_numpy() + delays(how.delay, n, first_row)
    payment_id = frauds["event_id"].combine_chunks()
    columns = [
        pc.binary_join_element_wise(payment_id, pa.array(at).cast(pa.string()), ":"),
        pa.array(at).cast(TIMESTAMP),
        payment_id,
        pa.repeat(pa.scalar(value=True), n),
        kinds,
        pa.repeat(pa.scalar(how.labeler), n),
        frauds["account_id"].combine_chunks(),
        frauds["merchant_id"].combine_chunks(),
    ]
    return pa.Table.from_arrays(columns, schema=LABELS.schema)


def _note_rejects(batch: Batch, result: Conversion, file: Any, source: Path) -> None:
    for reject in batch.rejects:
        reason = f"{reject.column} {reject.reason}"
        result.reasons[reason] = result.reasons.get(reason, 0) + 1
        if len(result.examples) < 5:
            result.examples.append(reject)
        file.write(orjson.dumps(reject._asdict(), option=orjson.OPT_APPEND_NEWLINE))
    bad = len({reject.row for reject in batch.rejects})
    if batch.first_row == 0 and bad > _HOPELESS * len(batch):
        first = batch.rejects[0]
        msg = (
            f"{bad} of the first {len(batch)} rows cannot be read; "
            f"row {first.row}: {first.column} {first.value!r} {first.reason}"
        )
        raise MappingError(msg, where=source, todo="correct the mapping of that column")


def _checkcolumns_of(mapping: Mapping, present: list[str], source: Path) -> list[str]:
    """Insist on the columns of what must not be null; tell of the others that are not there."""
    notices = []
    parts: list[tuple[str, Value | Time | None, bool]] = [
        (f"payment.{name}", getattr(mapping.payment, name), name in PAYMENTS.required)
        for name in PAYMENTS.schema.names
    ]
    if mapping.label is not None:
        parts += [("label.is_fraud", mapping.label.is_fraud, False)]
        parts += [("label.fraud_type", mapping.label.fraud_type, False)]
    for place, how, required in parts:
        for column in sorted(columns_of(how) - set(present)) if how is not None else []:
            near = get_close_matches(column, present, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}" if near else f"the file has {', '.join(present)}"
            if required:
                msg = f"{place} wants the column {column!r}, which the file does not have"
                raise MappingError(msg, where=source, todo=hint)
            notices.append(f"{place}: no column {column!r} in the file ({hint}?); it is left null")
    return notices
