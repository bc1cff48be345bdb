"""A foreign file to canonical Parquet: one row per payment and one per label, each sorted by event_timestamp.

Memory is bounded: the file is read in batches, and DuckDB sorts it on disk if it is not in time order.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
import pyarrow.parquet as pq

from feature_repo.errors import DataError, MappingError
from feature_repo.schemas.label import LABEL
from feature_repo.schemas.payment import PAYMENT, REQUIRED, TIMESTAMP
from flows.mapping.spec import UNIT_US, LabelMapping, Mapping, Time, Value
from flows.mapping.values import Batch, Reject, delays

_BATCH_ROWS = 65_536
_CSV_BLOCK_BYTES = 16 << 20
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
    source: Path, mapping: Mapping, out: Path, *, limit: int | None = None, until: datetime | None = None
) -> Conversion:
    """Convert the first `limit` rows, dropping payments at or after `until`; writes into the folder `out`."""
    reader = _Reader(source, mapping, limit)
    notices = _check_columns(mapping, reader.columns, source)
    out.mkdir(parents=True, exist_ok=True)
    result = Conversion(
        out / "payments.parquet", out / "labels.parquet", out / "rejected.jsonl", notices=notices
    )
    spread = _Spread(mapping.payment.event_timestamp, reader)
    with (
        _Sorted(result.payments, PAYMENT) as payments,
        _Sorted(result.labels, LABEL) as labels,
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
    batch: Batch, mapping: Mapping, spread: "_Spread", until: datetime | None
) -> tuple[pa.Table, Any, Any]:
    """Payments of a batch, which of them are frauds, and the frauds' types."""
    columns: list[Any] = []
    for wanted in PAYMENT:
        how = getattr(mapping.payment, wanted.name)
        if how is None or not batch.has(_columns(how)):
            columns.append(pa.nulls(len(batch), wanted.type))
        elif isinstance(how, Time):
            columns.append(spread.apply(batch.time(how)))
        elif pa.types.is_floating(wanted.type):
            columns.append(batch.number(how))
        else:
            columns.append(batch.text(how))
        if wanted.name in REQUIRED:
            batch.require(wanted.name, columns[-1])
    table = pa.Table.from_arrays(columns, schema=PAYMENT)
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
    ]
    return pa.Table.from_arrays(columns, schema=LABEL)


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


def _check_columns(mapping: Mapping, present: list[str], source: Path) -> list[str]:
    """Insist on the columns of what must not be null; tell of the others that are not there."""
    notices = []
    parts: list[tuple[str, Value | Time | None, bool]] = [
        (f"payment.{name}", getattr(mapping.payment, name), name in REQUIRED) for name in PAYMENT.names
    ]
    if mapping.label is not None:
        parts += [("label.is_fraud", mapping.label.is_fraud, False)]
        parts += [("label.fraud_type", mapping.label.fraud_type, False)]
    for place, how, required in parts:
        for column in sorted(_columns(how) - set(present)) if how is not None else []:
            near = get_close_matches(column, present, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}" if near else f"the file has {', '.join(present)}"
            if required:
                msg = f"{place} wants the column {column!r}, which the file does not have"
                raise MappingError(msg, where=source, todo=hint)
            notices.append(f"{place}: no column {column!r} in the file ({hint}?); it is left null")
    return notices


def _columns(how: Value | Time) -> set[str]:
    return {how.column} if isinstance(how, Time) else how.columns


class _Reader:
    """Batches of the mapped columns of a CSV or Parquet file; as often as asked."""

    def __init__(self, source: Path, mapping: Mapping, limit: int | None) -> None:
        if not source.is_file():
            msg = "there is no such file"
            raise DataError(msg, where=source, todo="give the path of a CSV or Parquet file")
        self._source = source
        self._limit = limit
        self._parquet = source.suffix.lower() in {".parquet", ".pq"}
        self._parse = pv.ParseOptions(delimiter=mapping.delimiter, newlines_in_values=True)
        if self._parquet:
            self.columns: list[str] = pq.read_schema(source).names
        else:
            with source.open(encoding="utf-8-sig", newline="") as file:
                self.columns = next(csv.reader(file, delimiter=mapping.delimiter), [])
        parts = [getattr(mapping.payment, name) for name in PAYMENT.names]
        parts += [mapping.label.is_fraud, mapping.label.fraud_type] if mapping.label else []
        wanted = set().union(*(_columns(part) for part in parts if part is not None))
        self._wanted = [name for name in self.columns if name in wanted]

    def batches(self, only: str | None = None) -> Iterator[Batch]:
        """Read from the start, up to the limit; CSV values stay text, so a bad one is its row's problem."""
        wanted = [only] if only else self._wanted
        row, left = 0, self._limit
        for record_batch in self._open(wanted):
            for at in range(0, record_batch.num_rows, _BATCH_ROWS):
                table = pa.Table.from_batches([record_batch.slice(at, _BATCH_ROWS)])
                table = table if left is None else table.slice(0, left - row)
                if table.num_rows:
                    yield Batch(table, row)
                row += table.num_rows
            if left is not None and row >= left:
                return

    def _open(self, wanted: list[str]) -> Iterator[Any]:
        if self._parquet:
            yield from pq.ParquetFile(self._source).iter_batches(_BATCH_ROWS, columns=wanted)
            return
        try:
            yield from pv.open_csv(
                self._source,
                read_options=pv.ReadOptions(block_size=_CSV_BLOCK_BYTES),
                parse_options=self._parse,
                convert_options=pv.ConvertOptions(
                    include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())
                ),
            )
        except pa.ArrowInvalid as error:
            msg = f"the file cannot be read as CSV: {error}"
            raise DataError(msg, where=self._source, todo="check the delimiter and the quotes") from error


class _Spread:
    """Gives rows that share one coarse instant (PaySim's hour) their own, evenly and in file order."""

    def __init__(self, how: Time, reader: _Reader) -> None:
        self._width = UNIT_US[how.unit] if how.spread and how.unit else 0
        self._rows: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        if self._width:
            # A first pass over that one column: how many rows share each instant is known only at the end.
            for batch in reader.batches(only=how.column):
                for instant, count in _count(batch.time(how)):
                    self._rows[instant] = self._rows.get(instant, 0) + count

    def apply(self, times: Any) -> Any:
        """Move the instants of a batch apart."""
        if not self._width:
            return times
        valid = np.asarray(pc.is_valid(times))
        t = np.asarray(pc.fill_null(times.cast(pa.int64()), 0)).copy()
        rows = np.flatnonzero(valid)
        rows = rows[np.argsort(t[rows], kind="stable")]
        at = 0
        for instant, count in _count(times):
            seen = self._seen.get(instant, 0)
            places = np.arange(seen, seen + count, dtype=np.int64)
            t[rows[at : at + count]] = instant + places * self._width // self._rows[instant]
            self._seen[instant] = seen + count
            at += count
        return pa.array(t, mask=~valid).cast(TIMESTAMP)


def _count(times: Any) -> list[tuple[int, int]]:
    known = np.asarray(times.cast(pa.int64()).drop_null())
    instants, counts = np.unique(known, return_counts=True)
    return list(zip(instants.tolist(), counts.tolist(), strict=True))


class _Sorted:
    """A Parquet file sorted by event_timestamp, ties in order of writing."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._draft = path.with_suffix(".draft")
        self._schema = schema
        self._last: Any = None
        self._in_order = True

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(self._draft, self._schema, compression="zstd")
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows in any order."""
        if not table.num_rows:
            return
        t = table["event_timestamp"].cast(pa.int64()).to_numpy()
        first = t[:1] if self._last is None else np.array([self._last])
        self._in_order = self._in_order and bool((np.diff(np.concatenate([first, t])) >= 0).all())
        self._last = t[-1]
        self._writer.write_table(table)

    def __exit__(self, failed: object, *_: object) -> None:
        self._writer.close()
        if failed is None and not self._in_order:
            self._sort()
        elif failed is None:
            self._draft.rename(self._path)
        self._draft.unlink(missing_ok=True)

    def _sort(self) -> None:
        spill = self._path.parent / ".sorting"
        with duckdb.connect(config={"temp_directory": str(spill), "memory_limit": "1GB"}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            rows = connection.sql(
                "SELECT * EXCLUDE file_row_number FROM read_parquet(?, file_row_number = true) "
                "ORDER BY event_timestamp, file_row_number",
                params=[str(self._draft)],
            )
            with pq.ParquetWriter(self._path, self._schema, compression="zstd") as writer:
                for batch in rows.to_arrow_reader(_BATCH_ROWS):
                    writer.write_batch(batch.cast(self._schema))
