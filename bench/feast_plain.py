"""The reference for online reads: Feast's own Redis store with as many plain features and views of the same entities.

Each view behind the fraud service has a plain view of the same entity, and the service's features are spread evenly
over these. The values are those of the offline store for one payment of each key, written with
`write_to_online_store`.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.home import Built
from feature_repo.stores.reader.plan import Plan

KEY_COLUMNS = ("account_id", "merchant_id", "device_id", "payment_id")
PROJECT = "reference"


def reference_store(folder: Path, redis_url: str) -> Any:
    """A `FeatureStore` in `folder`, whose online store is Feast's own Redis store."""
    from feast import FeatureStore, RepoConfig

    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"feast\.")
    address, _, db = redis_url.removeprefix("redis://").partition("/")
    return FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "redis", "connection_string": f"{address},db={db or 0}"},
            offline_store={"type": "dask"},
            entity_key_serialization_version=3,
        )
    )


def entity_row(request: dict[str, Any]) -> dict[str, str]:
    """The keys of a request."""
    return {
        "account_id": request["account_id"],
        "merchant_id": request["merchant_id"],
        "device_id": request.get("device_id") or "none",
        "payment_id": request["event_id"],
    }


def fill(store: Any, plan: Plan, built: Built, requests: int) -> list[str]:
    """Apply the views and write the keys of the first requests; return the feature references in the plan's order."""
    from feast import Entity, FeatureView, Field, FileSource
    from feast.types import Float64
    from feast.value_type import ValueType

    entities = {name: Entity(name=name, value_type=ValueType.STRING) for name in KEY_COLUMNS}
    source = FileSource(path="unused.parquet", timestamp_field="event_timestamp")
    reads = [r.spec.join_keys for r in plan.windowed] + [r.join_keys for r in plan.plain]
    dealt = [list(part) for part in np.array_split(np.arange(len(plan.columns)), len(reads))]
    views = []
    for number, (keys, columns) in enumerate(zip(reads, dealt, strict=True)):
        fields = [Field(name=plan.feature_names[c], dtype=Float64) for c in columns]
        view = FeatureView(
            name=f"view_{number:02d}",
            entities=[entities[k] for k in keys],
            ttl=timedelta(days=30),
            schema=fields,
            source=source,
        )
        views.append((view, keys, columns))
    store.apply([*entities.values(), *(view for view, _, _ in views)])
    asked = pd.DataFrame([entity_row(request) for request in built.requests[:requests]])
    vectors = np.nan_to_num(built.expected[:requests])
    now = datetime.now(UTC)
    for view, keys, columns in views:
        rows = asked[list(keys)].assign(event_timestamp=now)
        rows[[plan.feature_names[c] for c in columns]] = vectors[:, columns]
        store.write_to_online_store(view.name, rows.drop_duplicates(list(keys)))
    return [f"{view.name}:{plan.feature_names[c]}" for view, _, columns in views for c in columns]
