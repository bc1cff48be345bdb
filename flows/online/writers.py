"""The writers of a flow's window states, one per set of view versions that are written together, made on first use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import RedisError

from feature_repo.errors import OnlineStoreError
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.stores.redis_layout.view_versions import mark_filled, publish, unmark_filled
from feature_repo.windows.spec import ViewSpec


class Projections:
    """The writers that share `client`, a redis-py client (None without views). Safe to use from several workers."""

    def __init__(self, client: Any, project: str, shards: int) -> None:
        self.client = client
        self._project, self._shards = project, shards
        self._made: dict[tuple[str, ...], EntityProjection] = {}

    def of(self, specs: Sequence[ViewSpec]) -> EntityProjection:
        """The writer of the states of these views of one entity, in this order; made on the first call."""
        versions = tuple(map(version_id, specs))
        if versions not in self._made:
            self._made[versions] = EntityProjection(self.client, self._project, specs)
        return self._made[versions]

    def by(self, versions: tuple[str, ...]) -> EntityProjection:
        """The writer that `of` made for these version ids (`<view>:<version>`)."""
        return self._made[versions]

    def publish(self, kept: Iterable[ViewSpec]) -> None:
        """Publish which versions are kept, for readers. Raises `OnlineStoreError`."""
        if self.client is None:
            return
        try:
            publish(self.client, self._project, kept)
        except RedisError as error:
            raise _unpublished(error) from error

    def mark_filled(self, versions: Iterable[str], shard: int) -> None:
        """Publish that a shard has written all its states of these versions. Raises `OnlineStoreError`."""
        try:
            mark_filled(self.client, self._project, versions, shard, self._shards)
        except RedisError as error:
            raise _unpublished(error) from error

    def unmark_filled(self, versions: Iterable[str], shard: int) -> None:
        """Publish that a shard's states of these versions are incomplete again. Raises `OnlineStoreError`."""
        try:
            unmark_filled(self.client, self._project, versions, shard, self._shards)
        except RedisError as error:
            raise _unpublished(error) from error


def _unpublished(error: RedisError) -> OnlineStoreError:
    msg = f"the versions kept could not be published: {error}"
    return OnlineStoreError(msg, where="Redis", todo="check that the server at REDIS_URL runs and has memory")
