"""Reading an event log: a flat folder of immutable Parquet files. One row per accepted event.

Older files may have fewer columns than newer ones; a missing column reads as nulls. A missing folder is an empty log.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from feature_repo.errors import LogError
from feature_repo.stores.event_log import checksums


def log_files(log: Path) -> list[Path]:
    """Return the published files of a log, by name; a path to a single file is a log of that file."""
    if log.is_file():
        return [log]
    return sorted(p for p in log.glob("**/*.parquet") if not p.name.startswith((".", "_")))


def log_schema(files: Sequence[Path]) -> pa.Schema:
    """Return the columns of all files together, in the order of the newest file."""
    seen: dict[str, pa.Field] = {}
    for path in [*files[-1:], *files[:1]]:
        for column in _open(path).schema_arrow:
            seen.setdefault(column.name, column)
    return pa.schema(list(seen.values()))


def scan_log(
    log: Path,
    columns: Sequence[str],
    start: int | None = None,
    end: int | None = None,
    time_column: str = "event_timestamp",
    *,
    files: Sequence[Path] | None = None,
    dictionaries: Collection[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Yield the rows with `start <= time_column < end` (int64 UTC us) in batches, with the requested columns only.

    `files`: the files of a log read before, to read the same rows again. Columns of `dictionaries` that are strings
    are returned dictionary-encoded, as Parquet stores them. Raises `LogError`, with the file's name, for a column that
    the log does not have or a file that cannot be read.
    """
    files = log_files(log) if files is None else files
    if not files:
        return
    checksums.check(files)
    schema = log_schema(files)
    missing = [c for c in columns if c not in schema.names]
    if missing:
        msg = f"the event log has no column {', '.join(map(repr, missing))}; it has {', '.join(schema.names)}"
        raise LogError(msg, where=log, todo="correct the view's columns or its source")
    encoded = [c for c in columns if c in dictionaries and pa.types.is_string(schema.field(c).type)]
    for name in encoded:
        kind = pa.dictionary(pa.int32(), pa.string())
        schema = schema.set(schema.get_field_index(name), schema.field(name).with_type(kind))
    dataset = ds.dataset(
        [str(p) for p in files], schema=schema, format=ds.ParquetFileFormat(dictionary_columns=encoded)
    )
    condition = (
        _between(schema.field(time_column).type, time_column, start, end)
        if start is not None or end is not None
        else None
    )
    try:
        for batch in dataset.to_batches(
            columns=list(columns),
            filter=condition,
            batch_size=1 << 17,
            batch_readahead=4,  # Arrow's own 16 batches of each of 4 files are more than is kept of them
            fragment_readahead=1,
        ):
            if batch.num_rows:
                yield batch
    except (pa.ArrowInvalid, OSError) as error:
        raise LogError(
            f"the event log cannot be read: {error}",
            where=log,
            todo="restore the file it names from a backup",
        ) from error


def read_log(
    log: Path, columns: Sequence[str] | None = None, start: int | None = None, end: int | None = None
) -> pa.Table:
    """Return the rows of a log as one table; see `scan_log`. All columns by default."""
    files = log_files(log)
    if not files:
        return pa.table({c: pa.nulls(0) for c in columns or ()})
    schema = log_schema(files)
    names = list(columns) if columns is not None else schema.names
    return pa.Table.from_batches(
        list(scan_log(log, names, start, end)),
        pa.schema([schema.field(n) for n in names if n in schema.names]),
    )


def count_rows(files: Sequence[Path]) -> int:
    """Return the number of rows in all files, from their footers."""
    return sum(_open(path).metadata.num_rows for path in files)


def _between(kind: pa.DataType, column: str, start: int | None, end: int | None) -> pc.Expression:
    bounds = []
    if start is not None:
        bounds.append(ds.field(column) >= pa.scalar(start, pa.timestamp("us", "UTC")).cast(kind, safe=False))
    if end is not None:
        bounds.append(ds.field(column) < pa.scalar(end, pa.timestamp("us", "UTC")).cast(kind, safe=False))
    return bounds[0] if len(bounds) == 1 else bounds[0] & bounds[1]


def _open(path: Path) -> pq.ParquetFile:
    try:
        checksums.check_footer(path)
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise LogError(
            f"not a readable Parquet file: {error}", where=path, todo="restore it from a backup"
        ) from error
