"""Faults between a scorer process and a real store, at twice the normal load; `make soak` sends ten times as much."""

from pathlib import Path

import pytest

from serving.admission.load_shedding import MIN_LIMIT, ConcurrencyLimiter
from serving.store.circuit_breaker import MAX_MISSED, MAX_PROBES, SOON, Breaker
from tests.kits.served_model import own_home, world
from tests.soak import champion_flips, scorer_faults, scorer_overload


@pytest.mark.parametrize("seed", range(scorer_faults.TRIALS), ids=list(scorer_faults.FAULTS))
def test_every_payment_is_answered_in_time_whatever_the_store_does(seed: int) -> None:
    scorer_faults.trial(seed, requests=100)


def test_the_breaker_opens_when_more_requests_are_missed_than_answered() -> None:
    breaker = Breaker()
    for _ in range(20):  # an odd slow answer does not open it
        breaker.missed(0.0)
        breaker.answered()
    assert not breaker.is_open
    for _ in range(MAX_MISSED):
        breaker.missed(0.0)
    assert breaker.is_open
    assert not breaker.probed(False, 1.0)
    assert breaker.probed(True, 1.1)
    assert not breaker.is_open


def test_a_breaker_that_opens_again_soon_needs_more_good_probes_up_to_a_limit() -> None:
    breaker, now = Breaker(), 100.0
    for wanted in (1, 2, 4, MAX_PROBES, MAX_PROBES):
        breaker.open(now)
        assert [breaker.probed(True, now) for _ in range(wanted)] == [False] * (wanted - 1) + [True]
        now += SOON / 2
    breaker.open(now + SOON)
    assert breaker.probed(True, now + SOON)


def test_a_probe_that_is_late_starts_the_count_again() -> None:
    breaker = Breaker()
    breaker.open(0.0)
    breaker.probed(True, 0.0)
    breaker.open(1.0)
    assert [breaker.probed(in_time, 1.0) for in_time in (True, False, True, True)] == [
        False,
        False,
        False,
        True,
    ]


def test_the_champion_changes_under_load_and_no_payment_is_dropped() -> None:
    champion_flips.trial(0)


def test_at_three_times_the_capacity_requests_are_answered_or_refused_and_memory_stays_flat() -> None:
    scorer_overload.trial(0, seconds=2.0)


def test_the_concurrency_limit_falls_while_the_loop_is_late_and_rises_again() -> None:
    limiter = ConcurrencyLimiter(max_in_flight=100, max_lag_seconds=0.05)
    limiter.acquire()
    assert not limiter.is_full
    limiter.release()
    for _ in range(20):
        limiter.adjust(0.06)
    assert limiter.limit == MIN_LIMIT  # never shut
    limiter.in_flight = MIN_LIMIT
    assert limiter.is_full
    for _ in range(100):
        limiter.adjust(0.0)
    assert limiter.limit == 100


@pytest.mark.parametrize("path", ["/score", "/score/batch"])
def test_a_refused_client_gets_retry_after(path: str, tmp_path: Path) -> None:
    payment = world().payment()
    with world().scorer(home=own_home(tmp_path), max_in_flight=1) as client:
        asked = payment if path == "/score" else {"payments": [payment]}
        limiter = client.app.state.parts.limiter  # type: ignore[attr-defined]
        limiter.acquire()
        refused = client.post(path, json=asked)
        assert client.post(path, json={}).status_code == 503  # nobody looks into what is turned away
        assert client.get("/healthz").status_code == 200
        limiter.release()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "too many" in refused.json()["detail"]
        assert client.post(path, json=asked).status_code == 200
