"""The only place where the scorer is wired.

`uvicorn serving.app:app` uses `from_environment`; tests call `build` with their own settings or clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from feature_repo import privacy
from feature_repo.errors import OnlineStoreError
from feature_repo.settings import PROJECT_ROOT
from feature_repo.stores.clock import wall_clock_us
from serving import logs
from serving.admission.authorize import Authorizer
from serving.admission.load_shedding import ConcurrencyLimiter
from serving.health.readiness import Readiness
from serving.health.view_versions import ViewVersionMonitor
from serving.models.champion import Champion
from serving.models.fallback import Fallback
from serving.models.warm_up import warm_kernels
from serving.outputs.score_log import ScoreLog
from serving.outputs.score_topic import ScoreTopic
from serving.scorer import Scorer
from serving.settings import ScorerSettings
from serving.store.connection import StoreConnection

REPO = PROJECT_ROOT / "feature_repo"
SWITCH_SECONDS = 0.0005
"""GIL switch interval, so that a thread that loads a model yields to payments; Python's 5 ms would be added to each
system call of a payment."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Parts:
    """A wired scorer.

    `store` serves single payments and `batch_store` batches, so that a payment never waits behind a batch's reply.
    """

    settings: ScorerSettings
    clock: Callable[[], int]
    champion: Champion
    store: StoreConnection
    batch_store: StoreConnection
    score_log: ScoreLog | None
    scorer: Scorer
    readiness: Readiness
    versions: ViewVersionMonitor
    authorizer: Authorizer
    limiter: ConcurrencyLimiter
    score_topic: ScoreTopic | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Compile the kernels, load the model, connect and start to log; a missing model or store is not an error."""
        await asyncio.to_thread(warm_kernels)
        await asyncio.to_thread(self.champion.refresh)
        await asyncio.gather(self.store.start(), self.batch_store.start())
        if self.score_log is not None:
            await self.score_log.start()
        if self.score_topic is not None:
            await self.score_topic.start()
        with contextlib.suppress(OnlineStoreError):
            await self.versions.refresh()
        self._tasks.append(asyncio.create_task(self.versions.follow()))
        self._tasks.append(asyncio.create_task(self.authorizer.follow()))
        self._tasks.append(asyncio.create_task(self.limiter.watch()))
        if self.settings.model_poll_seconds:
            self._tasks.append(asyncio.create_task(self.champion.follow(self.settings.model_poll_seconds)))
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.freeze()  # a full collection over all modules would stop the loop for tens of milliseconds
        gc.enable()

    async def stop(self) -> None:
        """Stop the background tasks, close the connections and write what is still to be logged."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(self.store.stop(), self.batch_store.stop())
        if self.score_log is not None:
            await self.score_log.stop()
        if self.score_topic is not None:
            await self.score_topic.stop()


def from_environment() -> Parts:
    """Build from `MILLSTREAM_...` variables, with the wall clock and logs on standard error."""
    settings = ScorerSettings()
    logs.configure(settings.log_format, access_log=settings.access_log)
    return build(settings)


def build(settings: ScorerSettings, *, clock: Callable[[], int] = wall_clock_us, repo: Path = REPO) -> Parts:
    """Build the parts; nothing is opened yet.

    `clock` returns int64 UTC us, `repo` is the folder of on-demand functions.

    Raises `SettingsError` without a pseudonym key, or with another key than the home's data was written with.
    """
    pseudonyms = privacy.of_settings(settings)
    privacy.require_same_key(settings.home, pseudonyms, privacy.read_key_note(settings.home))
    authorizer = Authorizer.of(settings)
    champion = Champion(settings.models / settings.model_name, repo, threads=settings.threads)
    store = StoreConnection(settings.redis_url, "single", settings.store_seconds)
    batch_store = StoreConnection(settings.redis_url, "batch", settings.batch_store_seconds)
    score_log = None
    if settings.score_log:
        score_log = ScoreLog(
            settings.scores,
            _EPOCH + timedelta(microseconds=clock()),
            flush_seconds=settings.score_log_flush_ms / 1000,
            buffer=settings.score_log_buffer,
        )
    score_topic = ScoreTopic(settings) if settings.score_topic or settings.alert_topic else None
    versions = ViewVersionMonitor(champion, batch_store)
    fallback = Fallback.of(settings)
    scorer = Scorer(
        champion,
        fallback,
        score_log,
        clock,
        pseudonyms,
        versions,
        max_reasons=settings.reasons,
        score_topic=score_topic,
        pending_seconds=settings.pending_seconds,
    )
    readiness = Readiness(champion, fallback, store, batch_store, settings, pseudonyms, versions)
    return Parts(
        settings,
        clock,
        champion,
        store,
        batch_store,
        score_log,
        scorer,
        readiness,
        versions,
        authorizer,
        ConcurrencyLimiter(settings.max_in_flight, settings.max_lag_seconds),
        score_topic,
    )
