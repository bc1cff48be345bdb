"""On-demand views offline: one value per requested row, from that row's inputs, a chunk of rows at a time.

Feast passes all columns of the result to a Python-mode view as lists of Python objects, once per view. Here a column
becomes a list only when the function reads it, and only for the rows of the chunk. That is safe because such a view
gets single rows online, so it cannot depend on other rows. Views of other modes are transformed by Feast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any, Final

import numpy as np
import pyarrow as pa
from feast import OnDemandFeatureView

ROWS: Final = 1 << 14


class HistoricalOnDemand:
    """An on-demand view as Feast's retrieval job uses it."""

    def __init__(self, view: OnDemandFeatureView) -> None:
        self._view = view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def transform_arrow(self, table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        """Return the view's columns for every row of the table."""
        view = self._view
        if view.mode != "python" or view.singleton or not table.num_rows:
            return view.transform_arrow(table, full_feature_names)
        function: Any = view.feature_transformation
        table, helping = view._preprocess_arrow_table(table)  # the features under both their names
        parts = [
            pa.Table.from_pydict(function.udf(_Lists(table.slice(first, ROWS))))
            for first in range(0, table.num_rows, ROWS)
        ]
        made = pa.concat_tables(parts, promote_options="permissive")
        return view._postprocess_arrow_table(made, helping, full_feature_names)


class _Lists(Mapping[str, list[Any]]):
    """The columns of a table as lists, None for null."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._lists: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._lists:
            self._lists[name] = as_list(self._table[name])
        return self._lists[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.column_names)

    def __len__(self) -> int:
        return len(self._table.column_names)


def as_list(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column as `to_pylist` does, but convert each distinct text and time only once.

    `to_pylist` creates every value through an Arrow object.
    """
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        values: list[Any] = (column.fill_null(0) if column.null_count else column).to_numpy().tolist()
        for row in np.flatnonzero(column.is_null().to_numpy()).tolist() if column.null_count else ():
            values[row] = None
        return values
    if not (pa.types.is_string(column.type) or pa.types.is_timestamp(column.type)):
        return list(column.to_pylist())
    coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    different = np.array([*_objects(coded.dictionary), None], object)[:-1]
    return list(different[coded.indices.to_numpy()].tolist())


def _objects(column: pa.Array) -> list[Any]:
    if column.type != pa.timestamp("us", "UTC"):
        return list(column.to_pylist())
    naive = column.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False).astype(object).tolist()
    return [None if t is None else t.replace(tzinfo=UTC) for t in naive]
