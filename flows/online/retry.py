"""Retries for writes to the online store while the server is unreachable.

After a minute the error is raised and the process ends; its next start replays what was not durable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import redis

from feature_repo.errors import OnlineStoreError
from feature_repo.retry import Outage
from flows import metrics

RETRY_SECONDS: Final = 60.0
T = TypeVar("T")


def call_with_retry(call: Callable[[], T]) -> T:
    """Return what `call` returns; repeat it for up to a minute while the server is unreachable.

    Raises the `OnlineStoreError` of `call`: at once if the server answered with an error, else after a minute.
    """

    def unreachable(error: Exception) -> bool:
        away = isinstance(error, OnlineStoreError) and isinstance(
            error.__cause__, redis.ConnectionError | redis.TimeoutError
        )
        if away:
            metrics.ONLINE_ERRORS.inc()
        return away

    outage = Outage("online", todo="the flow waits; check REDIS_URL")
    return outage.wait_out(
        call, unreachable, describe=lambda error: str(error.__cause__), seconds=RETRY_SECONDS
    )
