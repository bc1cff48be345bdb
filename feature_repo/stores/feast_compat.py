"""Fixes for Feast 0.67, applied when our online or offline store is loaded, in any process.

* `feast feature-views list` fails on our repo: it calls `FeatureStore.get_feature_view` for every source of an
  on-demand view, and that does not find stream feature views. With the fix it finds them, too (they are
  `FeatureView`s).
* A Feast server with authentication lets everyone with a valid token read everything: it uses the permissions of the
  project named in the query (`POST /get-online-features?project=none-such`), and a project without permissions allows
  every action. With the fix the project is the server's own, and without permissions nothing is allowed.
* Over HTTP, a time in a request is text, and Feast passes the text to on-demand functions, which get a datetime
  everywhere else. With the fix they get a datetime here, too.
"""

from datetime import UTC, datetime
from typing import Any

from feast import FeatureStore, OnDemandFeatureView
from feast.errors import FeastPermissionError, FeatureViewNotFoundException
from feast.permissions import enforcer, security_manager
from feast.permissions.server import rest
from feast.types import UnixTimestamp

_get_original_view = FeatureStore.get_feature_view
_enforce_original = enforcer.enforce_policy
_transform_original = OnDemandFeatureView.transform_dict


def _get_feature_view(self: FeatureStore, name: str, *arguments: Any, **options: Any) -> Any:
    try:
        return _get_original_view(self, name, *arguments, **options)
    except FeatureViewNotFoundException:
        if name in {view.name for view in self.list_stream_feature_views(allow_cache=True)}:
            return self.get_stream_feature_view(name)
        raise


def _enforce_policy(permissions: list[Any], *arguments: Any, **options: Any) -> Any:
    if not permissions:
        msg = "The project has no permissions, so nothing is allowed. Run `feast apply` with feature_repo/permissions.py."
        raise FeastPermissionError(msg)
    return _enforce_original(permissions, *arguments, **options)


def _own_project(request: Any) -> str | None:
    """Return no project from the query: the security manager then uses the server's own."""
    return None


def _transform_dict(self: OnDemandFeatureView, features: dict[str, Any]) -> Any:
    times = {
        f.name for s in self.source_request_sources.values() for f in s.schema if f.dtype == UnixTimestamp
    }
    for name in times & features.keys():
        features = {**features, name: [_time(value) for value in features[name]]}
    return _transform_original(self, features)


def _time(value: Any) -> Any:
    """Return RFC 3339 text as a datetime; text without a zone is UTC, as everywhere in Feast."""
    if not isinstance(value, str):
        return value
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def mend() -> None:
    """Apply the fixes; calling it again changes nothing."""
    FeatureStore.get_feature_view = _get_feature_view  # type: ignore[method-assign]
    security_manager.enforce_policy = _enforce_policy  # type: ignore[attr-defined]
    rest._extract_project_from_request = _own_project
    OnDemandFeatureView.transform_dict = _transform_dict  # type: ignore[method-assign, assignment]
