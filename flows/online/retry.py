"""Waiting for a server that is away: for a minute, then the process ends, and its next start replays what was not durable."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import redis
import structlog

from feature_repo.errors import OnlineStoreError
from flows import metrics

log = structlog.get_logger(__name__)

GIVE_UP_S: Final = 60.0
Rows = TypeVar("Rows")
_OUTAGE: Final = (redis.ConnectionError, redis.TimeoutError)


def send_patiently(send: Callable[[Rows], object], rows: Rows) -> None:
    """Send rows; while the server is unreachable wait and try again, for a minute. Raises `OnlineStoreError`."""
    give_up = time.monotonic() + GIVE_UP_S
    wait = 0.05
    while True:
        try:
            send(rows)
        except OnlineStoreError as error:
            if not isinstance(error.__cause__, _OUTAGE) or time.monotonic() > give_up:
                raise
            metrics.ONLINE_ERRORS.inc()
            log.warning(
                "online.unreachable", error=str(error.__cause__), todo="the flow waits; check REDIS_URL"
            )
            time.sleep(wait)
            wait = min(wait * 2, 2.0)
        else:
            return
