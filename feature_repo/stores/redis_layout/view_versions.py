"""Versions of windowed views that are kept online: flows and `feast apply` publish them, every reader checks them.

A version is a view's name and eight hex digits that stand for its states: their layout (`ViewSpec.fingerprint`) and
keys. A changed definition under the same name is another version with its own state field; a change that needs no
other state (a window within the longest) keeps the version. One small Redis hash per project,
`millstream:versions:<project>`:

    <view>:<version>            the version is kept: listed in `views.json`, until it is retired
    <view>:<version>:03/16      part 3 of 16 has written all its states; when all parts have, a key without a state
                                had no events

Fields for another number of parts stay when the number changes, because what was written then is still stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.windows.spec import ViewSpec


def versions_key(project: str) -> str:
    """Return the name of the hash."""
    return f"millstream:versions:{project}"


def publish(client: Any, project: str, kept: Iterable[ViewSpec]) -> None:
    """Publish exactly these versions; which parts of them are filled does not change. Raises the errors of redis-py."""
    key = versions_key(project)
    wanted = {version_id(spec) for spec in kept}
    there = {field.decode() for field in client.hkeys(key)}
    gone = [field for field in there if ":".join(field.split(":")[:2]) not in wanted]
    with client.pipeline(transaction=True) as pipe:
        if gone:
            pipe.hdel(key, *gone)
        if wanted:
            pipe.hset(key, mapping=dict.fromkeys(sorted(wanted), "kept"))
        pipe.execute()


def mark_filled(client: Any, project: str, versions: Iterable[str], shard: int, shards: int) -> None:
    """Record that a part has written its states of these versions. Versions that are not kept are ignored."""
    key = versions_key(project)
    names = list(versions)
    kept = client.hmget(key, names) if names else []
    marks = {f"{name}:{shard:02d}/{shards:02d}": "filled" for name, k in zip(names, kept, strict=True) if k}
    if marks:
        client.hset(key, mapping=marks)


def unmark_filled(client: Any, project: str, versions: Iterable[str], shard: int, shards: int) -> None:
    """Record that the store lost states of a part, so that a missing state does not mean no events."""
    names = [f"{name}:{shard:02d}/{shards:02d}" for name in versions]
    if names:
        client.hdel(versions_key(project), *names)


@dataclass(frozen=True)
class KeptVersions:
    """The content of the hash: per view and version, how many parts are filled, of how many."""

    views: Mapping[str, Mapping[str, tuple[int, int]]]

    @classmethod
    def of(cls, fields: Iterable[bytes]) -> KeptVersions:
        """Return the versions in the field names of the hash.

        >>> kept = KeptVersions.of([b"v:00c0ffee", b"v:00c0ffee:00/02", b"v:00c0ffee:01/02"])
        >>> kept.views
        {'v': {'00c0ffee': (2, 2)}}
        """
        views: dict[str, dict[str, Counter[int]]] = {}
        for field in sorted(field.decode() for field in fields):
            view, version, *part = field.split(":")
            done_of = views.setdefault(view, {}).setdefault(version, Counter())
            if part:
                done_of[int(part[0].partition("/")[2])] += 1
        return cls(
            {
                view: {version: _furthest(done_of) for version, done_of in versions.items()}
                for view, versions in views.items()
            }
        )

    def is_kept(self, spec: ViewSpec) -> bool:
        """Whether the version is listed."""
        name, version = version_id(spec).split(":")
        return version in self.views.get(name, {})

    def is_filled(self, spec: ViewSpec) -> bool:
        """Whether every part has written its states, so that a missing state means no events."""
        name, version = version_id(spec).split(":")
        done, of = self.views.get(name, {}).get(version, (0, 0))
        return 0 < of == done

    def problem(self, spec: ViewSpec) -> str:
        """Return why this version cannot be read and what to do; an empty text if it can, or nothing is published."""
        if not self.views or self.is_filled(spec):
            return ""
        name, version = version_id(spec).split(":")
        if not self.is_kept(spec):
            others = ", ".join(self.views.get(name, {})) or "none"
            return (
                f"version {version} of view {name!r} is not kept online (kept: {others}): it was retired, or its definition was never "
                "applied here; train a model on the views as they are, or apply the old definition again and run python -m flows.backfill"
            )
        done, of = self.views[name][version]
        so_far = f"{done} of {of} parts" if of else "no part"
        return (
            f"version {version} of view {name!r} is kept but not filled yet ({so_far}); "
            "run python -m flows.backfill, or wait for the flow that folds it"
        )


def _furthest(done_of: Mapping[int, int]) -> tuple[int, int]:
    """Return, of the published numbers of parts, the one with the largest filled share."""
    return max(((done, of) for of, done in done_of.items()), key=lambda m: m[0] / m[1], default=(0, 0))
