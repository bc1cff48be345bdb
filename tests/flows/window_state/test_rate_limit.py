"""Large states wait for their turn, small ones never; nothing that waits is forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from flows.window_state.rate_limit import Pace, Turn

LARGE = 80_000


def test_a_queue_keeps_its_rate_and_its_order() -> None:
    pace = Pace(1000.0)
    assert [pace.reserve(500, now) for now in (7.0, 7.1, 7.2, 9.0)] == [7.0, 7.5, 8.0, 9.0]


def test_small_states_never_wait() -> None:
    pace = Pace(1.0)
    pace.reserve(10**6, 0.0)  # whoever is large waits for days
    turn = Turn(pace)
    wait, oldest_us = turn.waits(np.array([100, LARGE, 200]), 7, 1.0)
    assert (wait.tolist(), oldest_us) == ([False, True, False], 7)
    wait, oldest_us = turn.waits(np.array([100, 200]), 8, 1.1)
    assert (wait.tolist(), oldest_us, turn.at) == ([False, False], 8, None)


def test_a_large_state_leaves_when_its_turn_has_come_with_its_oldest_event() -> None:
    pace = Pace(1e6)
    pace.reserve(50_000, 1.0)
    turn = Turn(pace)
    assert turn.waits(np.array([LARGE]), 7, 1.0)[0].all()
    assert turn.at == 1.05
    assert turn.waits(np.array([LARGE, LARGE]), 9, 1.04)[0].all()
    wait, oldest_us = turn.waits(np.array([LARGE, LARGE]), 0, 1.06)
    assert (wait.any(), oldest_us, turn.at) == (False, 7, None)


def test_one_part_after_the_other() -> None:
    pace = Pace(1e6)
    turns = [Turn(pace) for _ in range(3)]
    for turn in turns:
        turn.waits(np.array([LARGE]), 1, 1.0)
    assert turns[0].at is None
    assert [turn.at for turn in turns[1:]] == pytest.approx([1.08, 1.16])
