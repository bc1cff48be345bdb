"""Some of the arrival orders of `tests.soak.shuffles`."""

from __future__ import annotations

import pytest

from tests.soak import shuffles


def test_arrival_order_within_the_lateness_changes_neither_log_nor_store() -> None:
    assert shuffles.trial(20261122, shuffles=15)


def test_an_order_beyond_the_lateness_is_told_from_one_within() -> None:
    early, late = shuffles.Sent(0, 700.0, 0.0, None, 1), shuffles.Sent(1, 0.0, 701.0, None, 1)
    with pytest.raises(AssertionError, match="within the lateness was refused"):
        shuffles.simulated(1, shuffles.arrivals([early, late]), 8)
