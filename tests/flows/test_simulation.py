"""The simulation of `tests.soak.sim`: some of its seeds, that a seed is a trial, and that it finds what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from feature_repo.errors import FlowError, LogError
from flows.accept import admit
from flows.log import epoch_files
from flows.online import outbox
from flows.sources import redis_retention
from tests.soak import sim


def _try(seeds: range) -> None:
    for seed in seeds:
        sim.trial(seed)


@pytest.mark.parametrize("seed", range(24))
def test_crashes_anywhere_lose_nothing_and_double_nothing(seed: int) -> None:
    sim.trial(seed)


def test_a_seed_brings_the_same_trial_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    run = sim.Trial.run

    def traced(self: sim.Trial) -> str:
        saw = run(self)
        ends.append(self.draw.getstate())
        return saw

    monkeypatch.setattr(sim.Trial, "run", traced)
    assert sim.trial(3) == sim.trial(3)
    assert ends[0] == ends[1]


def _publish_at_once(self: epoch_files.StagedPart) -> epoch_files.StagedState:
    self._publish()
    if self._buffer:
        self._pending = [self._stage()]
    self._publish()
    return {"seq": self._seq, "pending": []}


def _remember_no_ids(self: admit.Admission, partition: str) -> admit.RecentIds:
    del partition
    return admit.RecentIds(self._settings.allowed_lateness_us)


@pytest.mark.parametrize(
    ("where", "name", "mistake"),
    [
        (epoch_files.StagedPart, "snapshot", _publish_at_once),
        (admit.Admission, "_recall", _remember_no_ids),
        (redis_retention, "TRIM_AFTER_EPOCHS", 0),
        (outbox.Outbox, "flush", lambda self: None),
    ],
    ids=["publish before the epoch is durable", "forget ids", "trim at once", "wait for no answer"],
)
def test_mistake_is_found_within_a_few_seeds(
    where: Any, name: str, mistake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, mistake)
    with pytest.raises((AssertionError, FlowError, LogError)):
        _try(range(20))
