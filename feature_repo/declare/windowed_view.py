"""A Feast view of windows that are declared without Feast (`feature_repo.streams`)."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from feast import Entity, StreamFeatureView
from feast.aggregation import Aggregation

from feature_repo.declare.windowed_schema import schema_of
from feature_repo.windows.spec import ViewSpec


def view_of(
    spec: ViewSpec, *, entities: Sequence[Entity], source: Any, access: str, description: str
) -> StreamFeatureView:
    """Return the `StreamFeatureView` whose `view_spec` is `spec`; `access` says who may read it (docs/ownership.md)."""
    aggregations = [
        Aggregation(
            name=a.name, function=a.function, column=a.column, time_window=timedelta(microseconds=a.window_us)
        )
        for a in spec.aggregates
    ]
    return StreamFeatureView(
        name=spec.name,
        entities=list(entities),
        source=source,
        timestamp_field="event_timestamp",
        aggregations=aggregations,
        schema=schema_of(aggregations),
        enable_tiling=spec.tiled,
        tiling_hop_size=timedelta(microseconds=spec.hop_us) if spec.tiled else None,
        description=description,
        tags={
            "capacity": str(spec.capacity),
            "grace_seconds": str(spec.grace_us // 1_000_000),
            "id_column": spec.id_column,
            "access": access,
        },
    )
