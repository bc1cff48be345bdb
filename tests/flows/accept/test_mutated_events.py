"""What `tests.soak.mutated_events` tries 100,000 times, in one flow run."""

from __future__ import annotations

from tests.soak.mutated_events import trial


def test_mutated_events_are_logged_or_dead_lettered_and_never_stop_the_flow() -> None:
    assert trial(20261122, mutants=1_000, good=9_000)
