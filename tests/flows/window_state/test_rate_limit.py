"""Large states are delayed, small ones never; no delayed state is forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from flows.window_state.rate_limit import ByteRateLimiter, LargeStates

LARGE = 80_000


def test_a_limiter_keeps_its_rate_and_its_order() -> None:
    limiter = ByteRateLimiter(1000.0)
    assert [limiter.reserve(500, now) for now in (7.0, 7.1, 7.2, 9.0)] == [7.0, 7.5, 8.0, 9.0]


def test_small_states_are_never_delayed() -> None:
    limiter = ByteRateLimiter(1.0)
    limiter.reserve(10**6, 0.0)  # large states wait for days
    waiting = LargeStates(limiter)
    delayed, oldest_us = waiting.delay(np.array([100, LARGE, 200]), 7, 1.0)
    assert (delayed.tolist(), oldest_us) == ([False, True, False], 7)
    delayed, oldest_us = waiting.delay(np.array([100, 200]), 8, 1.1)
    assert (delayed.tolist(), oldest_us, waiting.due) == ([False, False], 8, None)


def test_a_large_state_is_sent_when_it_is_due_with_the_time_of_its_oldest_event() -> None:
    limiter = ByteRateLimiter(1e6)
    limiter.reserve(50_000, 1.0)
    waiting = LargeStates(limiter)
    assert waiting.delay(np.array([LARGE]), 7, 1.0)[0].all()
    assert waiting.due == 1.05
    assert waiting.delay(np.array([LARGE, LARGE]), 9, 1.04)[0].all()
    delayed, oldest_us = waiting.delay(np.array([LARGE, LARGE]), 0, 1.06)
    assert (delayed.any(), oldest_us, waiting.due) == (False, 7, None)


def test_parts_send_their_large_states_one_after_the_other() -> None:
    limiter = ByteRateLimiter(1e6)
    parts = [LargeStates(limiter) for _ in range(3)]
    for waiting in parts:
        waiting.delay(np.array([LARGE]), 1, 1.0)
    assert parts[0].due is None
    assert [waiting.due for waiting in parts[1:]] == pytest.approx([1.08, 1.16])
