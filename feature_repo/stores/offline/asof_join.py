"""Plain feature views offline: the latest row at or before the entity row's time, with DuckDB's `ASOF JOIN`.

Feast's rules apply: a row older than `ttl` is null; of equal event times the latest created row is used. If that is
equal, too, the last row is used, by file name and then position in the file: in a log with one writer that is the row
accepted last, as online. The number of rows does not change: DuckDB joins from the left, and every entity row has a
number. Timestamps are returned in UTC with their zone, as online.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from feast import FeatureView, ValueType
from feast.type_map import feast_value_type_to_pa

from feature_repo.errors import OfflineStoreError
from feature_repo.stores.event_log import checksums
from feature_repo.stores.event_log.read import log_files
from feature_repo.windows.arrays import Ints


def asof_join(
    view: FeatureView,
    path: Path,
    rows: pa.Table,
    times: Ints,
    entity_columns: list[str],
    output: dict[str, str],
    by_created: bool,
) -> dict[str, pa.Array]:
    """Return the columns of `output` (feature -> name in the result), one value per row of `rows`."""
    source = view.batch_source
    assert source is not None
    files = log_files(path)
    types = {f.name: _type(f.dtype.to_value_type()) for f in view.features}
    if not files:
        return {name: pa.nulls(rows.num_rows, types[feature]) for feature, name in output.items()}
    checksums.check(files)
    in_file = {new: old for old, new in source.field_mapping.items()}
    keys = sorted(view.join_keys)
    asked = pa.table(
        {"row_number": range(rows.num_rows), "t": pa.array(times)}
        | {f"k{i}": rows.column(c) for i, c in enumerate(entity_columns)}
    )
    created = source.created_timestamp_column
    time = f"epoch_us({_name(in_file.get(source.timestamp_field, source.timestamp_field))})"
    created_us = f"epoch_us({_name(in_file.get(created, created))})" if created else "0"
    selected = ", ".join(f"{_name(in_file.get(f, f))} AS v{i}" for i, f in enumerate(output))
    key_columns = ", ".join(f"{_name(in_file.get(k, k))} AS k{i}" for i, k in enumerate(keys))
    same_key = " AND ".join(f"a.k{i} = f.k{i}" for i in range(len(keys))) or "TRUE"
    ttl = (view.ttl or timedelta(0)) // timedelta(microseconds=1)
    fresh = f"f.t >= a.t - {ttl}" if ttl else "TRUE"
    values = ", ".join(f"CASE WHEN {fresh} THEN f.v{i} END AS v{i}" for i in range(len(output)))
    feature_rows = f"""
        SELECT {key_columns}, {time} AS t, {created_us} AS c, filename AS f, file_row_number AS n, {selected}
        FROM read_parquet(?, union_by_name=true, filename=true, file_row_number=true)"""
    if by_created and created:
        ranked = f"""
            SELECT a.row_number, f.*, row_number() OVER (PARTITION BY a.row_number ORDER BY f.t DESC, f.c DESC, f.f DESC, f.n DESC) AS rank
            FROM asked a JOIN features f ON {same_key} AND f.t <= a.t AND f.c <= a.t"""
        joined = f"SELECT a.row_number, {values} FROM asked a LEFT JOIN ({ranked}) f ON f.row_number = a.row_number AND f.rank = 1"
    else:
        latest = "SELECT * FROM features QUALIFY row_number() OVER (PARTITION BY {} ORDER BY c DESC, f DESC, n DESC) = 1".format(
            ", ".join([*(f"k{i}" for i in range(len(keys))), "t"])
        )
        joined = f"SELECT a.row_number, {values} FROM asked a ASOF LEFT JOIN ({latest}) f ON {same_key} AND a.t >= f.t"
    with duckdb.connect() as connection:
        connection.register("asked", asked)
        try:
            made: Any = connection.sql(
                f"WITH features AS ({feature_rows}) {joined} ORDER BY a.row_number",
                params=[[str(p) for p in files]],
            ).to_arrow_table()
        except duckdb.Error as error:
            msg = f"view {view.name!r} cannot be joined: {error}"
            raise OfflineStoreError(
                msg, where=path, todo="see that the source has the view's keys, time and features"
            ) from error
    return {
        name: made.column(f"v{i}").combine_chunks().cast(types[feature])
        for i, (feature, name) in enumerate(output.items())
    }


def _type(kind: ValueType) -> pa.DataType:
    if kind is ValueType.UNIX_TIMESTAMP:
        return pa.timestamp("us", "UTC")
    made: pa.DataType = feast_value_type_to_pa(kind)
    return made


def _name(column: str | None) -> str:
    quoted = (column or "").replace('"', '""')
    return f'"{quoted}"'
