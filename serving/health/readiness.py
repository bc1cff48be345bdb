"""Readiness: whether this scorer should get payments. A model is loaded, the store answers, and its features are fresh.

A scorer that is not ready still answers every payment, degraded if necessary; a load balancer may prefer another one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from feature_repo.errors import OnlineStoreError
from feature_repo.privacy import Pseudonyms
from serving.health.freshness import check_features
from serving.health.view_versions import ViewVersionMonitor
from serving.models.champion import Champion
from serving.models.fallback import Fallback
from serving.settings import ScorerSettings
from serving.store.connection import StoreConnection
from serving.store.resp import pack


@dataclass(frozen=True)
class Readiness:
    """The checks of `/readyz`; each request to the store takes at most `seconds`, all together four times that."""

    champion: Champion
    fallback: Fallback
    single: StoreConnection
    """The connection of `/score`: only its circuit breaker is checked."""
    store: StoreConnection
    settings: ScorerSettings
    pseudonyms: Pseudonyms
    versions: ViewVersionMonitor
    seconds: float = 1.0

    async def checks(self) -> list[dict[str, Any]]:
        """Return the results in the shape of `responses.Check`."""
        return [
            {"name": name, "ok": ok, "detail": detail}
            for name, (ok, detail) in (
                ("model", self._model()),
                ("store", await self._store()),
                ("features", await self._features()),
            )
        ]

    def _model(self) -> tuple[bool, str]:
        model, problem = self.champion.current, self.champion.problem
        if model is None:
            return False, f"no model is loaded: {problem}"
        if lacks := self.fallback.problem(model):
            return False, f"{model.name} {model.version}: {lacks}"
        return True, f"{model.name} {model.version}" + (
            f"; the model that the alias names is not used: {problem}" if problem else ""
        )

    async def _store(self) -> tuple[bool, str]:
        if problem := self.single.problem:
            return False, problem
        began = time.perf_counter()
        try:
            await self.store.send(pack([[b"PING"]]), 1, self.seconds)
        except OnlineStoreError as error:
            return False, str(error)
        return True, f"answers in {(time.perf_counter() - began) * 1000:.1f} ms"

    async def _features(self) -> tuple[bool, str]:
        if self.champion.current is None:
            return False, "unknown without the read plan of a model"
        try:
            await self.versions.refresh()
            if problem := self.versions.problem(self.champion.current):
                return False, problem
            return await check_features(
                self.store,
                self.champion.current.reader.plan,
                self.pseudonyms,
                partitions=self.settings.bus_partitions,
                limit_seconds=self.settings.freshness_limit_seconds,
                seconds=self.seconds,
            )
        except OnlineStoreError as error:
            return False, str(error)
