"""The offline store: Feast's class, and the point-in-time joins behind it.

`feature_store.yaml` names `feature_repo.stores.offline.MillstreamOfflineStore`. The class is loaded on first use,
because it imports Feast, which takes seconds.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Load Feast's classes when `feature_store.yaml` asks for them."""
    if name in {"MillstreamOfflineStore", "MillstreamOfflineStoreConfig"}:
        from feature_repo.stores.offline import feast_store

        return getattr(feast_store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
