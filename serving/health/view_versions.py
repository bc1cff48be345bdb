"""Whether the online store keeps the view versions that the model reads (`redis_layout.view_versions`).

Read at start and every few seconds, never in a request. A model whose version was retired, was never kept, or is still
being filled gets no features: the fallback decides, and the answer and `/readyz` name the view, the version and what to
do. So a payment is never answered from another version's states, and a key is never said to have no events because
nobody keeps them.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from feature_repo.errors import OnlineStoreError
from feature_repo.stores.redis_layout.view_versions import KeptVersions, versions_key
from serving.models.champion import Champion
from serving.models.model import Model
from serving.store.connection import StoreConnection
from serving.store.resp import pack

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 2.0


class ViewVersionMonitor:
    """The view versions in the store when it last answered; before its first answer there is no problem.

    `seconds` is the time limit of a request to the store.
    """

    def __init__(self, champion: Champion, store: StoreConnection, *, seconds: float = 1.0) -> None:
        self._champion, self._store, self._seconds = champion, store, seconds
        self._known = KeptVersions({})
        self._problems: dict[str, str] = {}

    def problem(self, model: Model) -> str:
        """Return why the model's views cannot be read; empty if they can."""
        found = self._problems.get(model.version)
        if found is None:
            problems = (self._known.problem(read.spec) for read in model.reader.plan.windowed)
            found = "; ".join(filter(None, problems))
            self._problems[model.version] = found
            if found:
                log.warning("versions.missing", model=model.version, why=found)
        return found

    async def refresh(self) -> None:
        """Read the kept versions. Raises `OnlineStoreError` if the store does not answer."""
        model = self._champion.current
        if model is None:
            return
        key = versions_key(model.reader.plan.project).encode()
        (fields,) = await self._store.send(pack([[b"HKEYS", key]]), 1, self._seconds)
        known = KeptVersions.of(fields)
        if known != self._known:
            self._known, self._problems = known, {}

    async def follow(self) -> None:
        """Refresh every `POLL_SECONDS` until cancelled. Errors are ignored: readers of the store report them."""
        while True:
            with contextlib.suppress(OnlineStoreError):
                await self.refresh()
            await asyncio.sleep(POLL_SECONDS)
