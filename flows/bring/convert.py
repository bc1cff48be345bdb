"""Convert a foreign file to Parquet files of a stream and of its labels, one row per event, sorted by event_timestamp.

Memory is bounded: the file is read in batches, and DuckDB sorts it on disk if it is not in time order.
"""

from contextlib import ExitStack
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
from flows.bring.mapping import Mapping, Time
from flows.bring.reader import Reader, columns_of
from flows.bring.sorted_file import SortedFile
from flows.bring.spread import Spread
from flows.bring.values import Batch, Reject, delays
from flows.streams import EventStream

_HOPELESS = 0.5
"""If more of the first batch than this cannot be read, it is the mapping that is wrong, not the rows."""


@dataclass(slots=True)
class Conversion:
    """What came of a file. `rejected` holds one JSON object per row that is no event, and why."""

    stream: EventStream
    events: Path
    """Parquet file of the stream's events."""
    rejected: Path
    label_stream: EventStream | None = None
    labels: Path | None = None
    """Parquet file of their labels, empty if the mapping has no `label`; None if no stream labels this one."""
    rows: int = 0
    kept: int = 0
    frauds: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[Reject] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, Path]:
        """The files that hold rows, by the stream that takes them."""
        found = {self.stream.name: self.events} if self.kept else {}
        if self.label_stream is not None and self.labels is not None and self.frauds:
            found[self.label_stream.name] = self.labels
        return found


def convert(
    source: Path,
    mapping: Mapping,
    out: Path,
    *,
    limit: int | None = None,
    until: datetime | None = None,
    batch_rows: int = 65_536,
) -> Conversion:
    """Convert the first `limit` rows, dropping events at or after `until`; writes into the folder `out`.

    Raises `MappingError` when a required column is missing or most of the first rows cannot be read, and `DataError`
    when the file cannot be read.
    """
    stream, labelled = mapping.stream, mapping.label_stream
    reader = Reader(source, mapping, limit=limit, batch_rows=batch_rows)
    result = Conversion(
        stream,
        out / f"{stream.name}.parquet",
        out / "rejected.jsonl",
        labelled,
        out / f"{labelled.name}.parquet" if labelled else None,
        notices=_check_columns(mapping, reader.columns, source),
    )
    out.mkdir(parents=True, exist_ok=True)
    spreads = {name: Spread(how, reader) for name, how in mapping.columns.items() if isinstance(how, Time)}
    with ExitStack() as files:
        events = files.enter_context(SortedFile(result.events, stream.schema))
        labels = (
            files.enter_context(SortedFile(result.labels, labelled.schema))
            if labelled and result.labels
            else None
        )
        rejected = files.enter_context(result.rejected.open("wb"))
        for batch in reader.batches():
            table, fraud, fraud_type = _convert_batch(batch, mapping, spreads, until)
            _note_rejects(batch, result, rejected, source)
            events.write(table)
            if labels is not None and fraud.any():
                labels.write(_labels(table.filter(pa.array(fraud)), fraud_type, mapping, batch.first_row))
            result.rows += len(batch)
            result.kept += table.num_rows
            result.frauds += int(fraud.sum())
    return result


def _convert_batch(
    batch: Batch, mapping: Mapping, spreads: dict[str, Spread], until: datetime | None
) -> tuple[pa.Table, Any, Any]:
    """Return the events of a batch, which of them are frauds, and the frauds' types."""
    stream = mapping.stream
    columns: list[Any] = []
    for wanted in stream.schema:
        how = mapping.columns.get(wanted.name)
        if how is None or not batch.has(columns_of(how)):
            columns.append(pa.nulls(len(batch), wanted.type))
        elif isinstance(how, Time):
            columns.append(spreads[wanted.name].apply(batch.time(how)))
        else:
            columns.append(batch.column(wanted.type, how))
        if wanted.name in stream.required:
            batch.require(wanted.name, columns[-1])
    table = pa.Table.from_arrays(columns, schema=stream.schema)
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


def _labels(frauds: pa.Table, kinds: Any, mapping: Mapping, first_row: int) -> pa.Table:
    """Return the labels of fraudulent events, at the time they become known; columns both streams have are copied."""
    stream, labelled, how = mapping.stream, mapping.label_stream, mapping.label
    assert labelled is not None
    assert how is not None
    n = frauds.num_rows
    at = frauds["event_timestamp"].cast(pa.int64()).to_numpy() + delays(how.delay, n, first_row)
    identity = frauds[stream.id_column].combine_chunks()
    own = {
        labelled.id_column: pc.binary_join_element_wise(identity, pa.array(at).cast(pa.string()), ":"),
        "event_timestamp": pa.array(at).cast(TIMESTAMP),
        "is_fraud": pa.repeat(pa.scalar(value=True), n),
        "fraud_type": kinds,
        "labeler": pa.repeat(pa.scalar(how.labeler), n),
        **{key: identity for key, about in labelled.refers_to.items() if about == stream.name},
    }
    columns = []
    for name, kind in zip(labelled.schema.names, labelled.schema.types, strict=True):
        if name in own:
            columns.append(own[name])
        elif name in frauds.column_names:
            columns.append(frauds[name].combine_chunks())
        else:
            columns.append(pa.nulls(n, kind))
    return pa.Table.from_arrays(columns, schema=labelled.schema)


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
    """Return a notice for each optional column the file does not have. Raises `MappingError` for a required one."""
    notices = []
    for place, (how, required) in mapping.parts().items():
        for column in sorted(columns_of(how) - set(present)):
            near = get_close_matches(column, present, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}" if near else f"the file has {', '.join(present)}"
            if required:
                msg = f"{place} wants the column {column!r}, which the file does not have"
                raise MappingError(msg, where=source, todo=hint)
            notices.append(f"{place}: no column {column!r} in the file ({hint}?); it is left null")
    return notices
