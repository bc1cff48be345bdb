"""The views of an applied repo that flows keep online, in a file that a flow reads in milliseconds without Feast.

`feast apply` writes `<home>/views.json` through the online store's `update` hook; the flow and the backfill compute
the views in this file. It does not contain views with `online=False`: those are computed offline only, from the log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from feature_repo.errors import DefinitionError
from feature_repo.files import write_atomically
from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.windows.spec import ViewSpec


@dataclass(frozen=True)
class PlainSpec:
    """A plain feature view over a log: the newest row of each key.

    `key_columns` are the log's columns of the sorted join keys. `features` are triples (log column, type, hash field
    in hex); the type is a lower-case name of Feast's `ValueType`. `ttl_us` 0 means no expiry.
    """

    name: str
    join_keys: tuple[str, ...]
    key_columns: tuple[str, ...]
    features: tuple[tuple[str, str, str], ...]
    ttl_us: int

    @property
    def fingerprint(self) -> str:
        """Return a digest that changes with everything that decides what is written."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, made: dict[str, Any]) -> PlainSpec:
        """Return the spec of a dictionary made by `asdict`; lists may stand for tuples."""
        features = tuple((column, kind, hex_field) for column, kind, hex_field in made["features"])
        return cls(
            made["name"], tuple(made["join_keys"]), tuple(made["key_columns"]), features, made["ttl_us"]
        )


Spec = TypeVar("Spec", ViewSpec, PlainSpec)


@dataclass(frozen=True)
class AppliedViews:
    """The online views of one Feast project, by stream: `streams` are the windowed views, `plain` the plain ones.

    `earlier` are versions of windowed views that the repo no longer defines (changed or removed). Models may still
    read them, so the flows keep them until they are retired (`python -m flows.retire`).
    """

    project: str
    streams: dict[str, tuple[ViewSpec, ...]]
    plain: dict[str, tuple[PlainSpec, ...]] = field(default_factory=dict)
    earlier: dict[str, tuple[ViewSpec, ...]] = field(default_factory=dict)

    def kept(self, stream: str) -> tuple[ViewSpec, ...]:
        """Return every version of a stream's windowed views that is folded, the applied ones first."""
        return self.streams.get(stream, ()) + self.earlier.get(stream, ())

    def every_kept(self) -> tuple[ViewSpec, ...]:
        """Return `kept` of all streams."""
        return tuple(spec for stream in sorted({*self.streams, *self.earlier}) for spec in self.kept(stream))

    def entities(self, stream: str) -> dict[tuple[str, ...], tuple[ViewSpec, ...]]:
        """Return the kept views of a stream by entity (its sorted join keys), which share keys and a Redis hash."""
        grouped: dict[tuple[str, ...], list[ViewSpec]] = {}
        for spec in self.kept(stream):
            grouped.setdefault(spec.join_keys, []).append(spec)
        return {keys: tuple(specs) for keys, specs in grouped.items()}


def write_views(path: Path, views: AppliedViews) -> None:
    """Replace the file atomically."""
    made = {
        "project": views.project,
        "streams": {s: [v.to_dict() for v in specs] for s, specs in views.streams.items()},
        "plain": {s: [asdict(v) for v in specs] for s, specs in views.plain.items()},
        "earlier": {s: [v.to_dict() for v in specs] for s, specs in views.earlier.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(made, indent=1), durable=False)


def read_views(path: Path) -> AppliedViews:
    """Return the views of the last `feast apply`. Raises `DefinitionError` if there was none."""
    try:
        made: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        msg = "no feature views have been applied"
        raise DefinitionError(msg, where=path, todo="run `feast apply` in feature_repo first") from None
    return AppliedViews(
        made["project"],
        {s: tuple(map(ViewSpec.from_dict, specs)) for s, specs in made["streams"].items()},
        {s: tuple(map(PlainSpec.from_dict, specs)) for s, specs in made.get("plain", {}).items()},
        {s: tuple(map(ViewSpec.from_dict, specs)) for s, specs in made.get("earlier", {}).items()},
    )


def superseded(before: AppliedViews, now: dict[str, tuple[ViewSpec, ...]]) -> dict[str, tuple[ViewSpec, ...]]:
    """Return the versions kept before that are not in `now`, the views as applied now; they stay, as earlier ones.

    Raises `DefinitionError` for a view that moved to another stream, because its states would mix the events of both.
    """
    stream_of = {spec.name: stream for stream, specs in now.items() for spec in specs}
    current = {version_id(spec) for specs in now.values() for spec in specs}
    earlier: list[tuple[str, ViewSpec]] = []
    for stream in sorted({*before.streams, *before.earlier}):
        for spec in before.kept(stream):
            if stream_of.get(spec.name, stream) != stream:
                raise DefinitionError(
                    f"view {spec.name!r} is folded from stream {stream!r} so far, now from {stream_of[spec.name]!r}",
                    todo="give it another name",
                )
            if version_id(spec) not in current:
                current.add(version_id(spec))
                earlier.append((stream, spec))
    return group_by_stream(earlier)


def group_by_stream(views: Iterable[tuple[str, Spec]]) -> dict[str, tuple[Spec, ...]]:
    """Return (stream, spec) pairs as a mapping for `AppliedViews`, sorted by name."""
    grouped: dict[str, list[Spec]] = {}
    for stream, spec in sorted(views, key=lambda pair: pair[1].name):
        grouped.setdefault(stream, []).append(spec)
    return {stream: tuple(specs) for stream, specs in sorted(grouped.items())}
