"""Batches of the mapped columns of a CSV or Parquet file, in bounded memory."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq

from feature_repo.errors import DataError
from flows.bring.mapping import Mapping, Time, Value
from flows.bring.values import Batch

_CSV_BLOCK_BYTES = 16 << 20


def columns_of(how: Value | Time) -> set[str]:
    """Return the columns of the file that a part of a mapping needs."""
    return {how.column} if isinstance(how, Time) else how.columns


class Reader:
    """Reads batches of the mapped columns of a CSV or Parquet file, any number of times."""

    def __init__(self, source: Path, mapping: Mapping, *, limit: int | None, batch_rows: int) -> None:
        if not source.is_file():
            msg = "there is no such file"
            raise DataError(msg, where=source, todo="give the path of a CSV or Parquet file")
        self._source = source
        self._limit = limit
        self._batch_rows = batch_rows
        self._parquet = source.suffix.lower() in {".parquet", ".pq"}
        self._parse = pv.ParseOptions(delimiter=mapping.delimiter, newlines_in_values=True)
        if self._parquet:
            self.columns: list[str] = pq.read_schema(source).names
        else:
            with source.open(encoding="utf-8-sig", newline="") as file:
                self.columns = next(csv.reader(file, delimiter=mapping.delimiter), [])
        wanted = set().union(*(columns_of(how) for how, _ in mapping.parts().values()))
        self._wanted = [name for name in self.columns if name in wanted]

    def batches(self, only: str | None = None) -> Iterator[Batch]:
        """Read from the start, up to the limit; CSV values stay text, so that a bad one rejects its own row only."""
        wanted = [only] if only else self._wanted
        row, left = 0, self._limit
        for record_batch in self._open(wanted):
            for at in range(0, record_batch.num_rows, self._batch_rows):
                table = pa.Table.from_batches([record_batch.slice(at, self._batch_rows)])
                table = table if left is None else table.slice(0, left - row)
                if table.num_rows:
                    yield Batch(table, row)
                row += table.num_rows
            if left is not None and row >= left:
                return

    def _open(self, wanted: list[str]) -> Iterator[Any]:
        if self._parquet:
            yield from pq.ParquetFile(self._source).iter_batches(self._batch_rows, columns=wanted)
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
