"""The online store: Feast's class, and the writers that flows use without importing Feast.

`feature_store.yaml` names `feature_repo.stores.online.MillstreamOnlineStore`. The class is loaded on first use,
because it imports Feast, which takes seconds; flows and the scorer import only the writers and the layout.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Load Feast's classes when `feature_store.yaml` asks for them."""
    if name in {"MillstreamOnlineStore", "MillstreamOnlineStoreConfig"}:
        from feature_repo.stores.online import feast_store

        return getattr(feast_store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
