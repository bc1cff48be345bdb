"""On-demand views offline get the values Feast would give them."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from feature_repo.stores.offline.on_demand import as_list

T = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1.5, None, -0.0]),
        pa.array([1, None, 2**60]),
        pa.array([True, None, False]),
        pa.array(["a", None, "a", ""]),
        pa.array([None, T, T], pa.timestamp("us", "UTC")),
        pa.array([T.replace(tzinfo=None), None], pa.timestamp("ms")),
        pa.array([], pa.string()),
        pa.nulls(2),
    ],
    ids=str,
)
def test_a_column_is_the_list_that_arrow_makes_of_it(values: pa.Array) -> None:
    column = pa.chunked_array([values, values.slice(1)])
    assert as_list(column) == column.to_pylist()
    assert [type(v) for v in as_list(column)] == [type(v) for v in column.to_pylist()]
