"""Permissions of a Feast server with authentication: `feast apply` registers them, `feast permissions list` shows them.

A view declares two things in its own file: `owner`, the team responsible for it, and the tag `access`, which is
`anonymous` (the modelling role may read it) or `owner` (only its owner may). On-demand views and feature services
have no tag: they are anonymous if everything they read is, because Feast's server checks a service, but not the views
in it.

Permissions list the views they grant by name. No permission names a view without the tag, and Feast refuses what no
permission names, so nobody can read a new view until its owner adds the tag. Feast's `required_tags` is not used:
Feast 0.67 compares it with an attribute that views do not have, and then grants everything.
"""

import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource
from feast.labeling import LabelView
from feast.permissions.action import ALL_ACTIONS, READ, AuthzedAction
from feast.permissions.permission import Permission
from feast.permissions.policy import RoleBasedPolicy

_FOLDERS = ("views", "on_demand", "label_views", "examples")
_NOTHING = ["(?!)"]  # an empty list of patterns would mean everything


def _defined(kind: type[Any], modules: Iterable[str]) -> dict[str, Any]:
    """Return the objects of a kind that these modules define, by name."""
    found = (o for name in modules for o in vars(import_module(name)).values() if isinstance(o, kind))
    return {o.name: o for o in found}


def _modules() -> list[str]:
    here = Path(__file__).parent
    return [f"{folder}.{file.stem}" for folder in _FOLDERS for file in sorted((here / folder).glob("*.py"))]


def _reads(view: BaseFeatureView | FeatureService) -> list[str]:
    """Return the names of the views that an on-demand view or a service reads."""
    if isinstance(view, FeatureService):
        return [p.name for p in view.feature_view_projections]
    return [p.name for p in view.source_feature_view_projections.values()]


def _patterns(names: Iterable[str]) -> list[str]:
    return [re.escape(name) for name in sorted(set(names))] or _NOTHING


views: dict[str, Any] = _defined(BaseFeatureView, _modules())
services: dict[str, Any] = _defined(FeatureService, ["services", *_modules()])


def is_anonymous(thing: Any) -> bool:
    """Whether the modelling role may read a view or service: by its tag, or by what it reads."""
    if isinstance(thing, OnDemandFeatureView | FeatureService):
        return all(name in views and is_anonymous(views[name]) for name in _reads(thing))
    return bool(thing.tags.get("access") == "anonymous")


def _owned(team: str) -> list[str]:
    """Return the names of a team's views, and of their sources and entities."""
    own = [v for v in views.values() if v.owner == team]
    return [name for v in own for name in (v.name, v.batch_source.name, *v.entities)]


customers_owner = Permission(
    name="customers_owner",
    types=[FeatureView, DataSource, Entity],
    name_patterns=_patterns(_owned("customers")),
    actions=ALL_ACTIONS,
    policy=RoleBasedPolicy(roles=["customers_owner"]),
    tags={"why": "The team responsible for the customers changelog may do everything with it"},
)
modelling = Permission(
    name="modelling_reads_anonymous",
    types=[FeatureView, OnDemandFeatureView, LabelView, FeatureService],
    name_patterns=_patterns(
        thing.name for thing in (*views.values(), *services.values()) if is_anonymous(thing)
    ),
    actions=[AuthzedAction.DESCRIBE, *READ],
    policy=RoleBasedPolicy(roles=["modelling"]),
    tags={"why": "Models are trained on enriched features, which name nobody"},
)
