"""The schema of a windowed view follows from its aggregations, so a new window is one line: its `Aggregation`."""

from collections.abc import Sequence

from feast import Field
from feast.aggregation import Aggregation
from feast.types import Float64, Int64

from feature_repo.windows.spec import INTEGER_FUNCTIONS


def schema_of(aggregations: Sequence[Aggregation]) -> list[Field]:
    """Return one field per aggregation.

    Counts (`count`, `count_distinct`, `count_since`) are Int64, all others Float64. Over an empty window counts and
    sums are 0, all others null.
    """
    return [
        Field(
            name=a.resolved_name(a.time_window), dtype=Int64 if a.function in INTEGER_FUNCTIONS else Float64
        )
        for a in aggregations
    ]
