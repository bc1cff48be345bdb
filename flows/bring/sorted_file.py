"""A Parquet file that is sorted by event_timestamp when it is closed, whatever the order of writing."""

from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_BATCH_ROWS = 65_536


class SortedFile:
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
