"""The time for which `get_online_features` computes windows: now, or the time set with `as_of`.

Feast's call has no argument for a time, so it is passed through a context variable, per thread and task:

    with as_of(payment_time):
        store.get_online_features(...)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

_AS_OF: ContextVar[int | None] = ContextVar("as_of", default=None)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_time_us() -> int:
    """Return the time set by `as_of`, else the wall clock: int64 microseconds UTC."""
    fixed = _AS_OF.get()
    return wall_clock_us() if fixed is None else fixed


def wall_clock_us() -> int:
    """Return the current time: int64 microseconds UTC."""
    return time.time_ns() // 1000


def to_us(when: datetime) -> int:
    """Return a datetime as microseconds UTC; a naive datetime counts as UTC."""
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


@contextmanager
def as_of(when: datetime) -> Iterator[None]:
    """Within the block, online reads answer as of `when` instead of now."""
    token = _AS_OF.set(to_us(when))
    try:
        yield
    finally:
        _AS_OF.reset(token)
