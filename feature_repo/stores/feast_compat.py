"""One mend to Feast 0.67, made when our online store is loaded: `feast feature-views list` must not fail on our repo.

The command asks `FeatureStore.get_feature_view` for every source of an on-demand view, which does not know stream feature views and
raises. With this, a stream feature view (it is a `FeatureView`) is found under its name too.
"""

from typing import Any

from feast import FeatureStore
from feast.errors import FeatureViewNotFoundException

_original = FeatureStore.get_feature_view


def _get_feature_view(self: FeatureStore, name: str, *arguments: Any, **options: Any) -> Any:
    try:
        return _original(self, name, *arguments, **options)
    except FeatureViewNotFoundException:
        if name in {view.name for view in self.list_stream_feature_views(allow_cache=True)}:
            return self.get_stream_feature_view(name)
        raise


def mend() -> None:
    """Idempotent."""
    FeatureStore.get_feature_view = _get_feature_view  # type: ignore[method-assign]
