"""The dead-letter limit: a share of the latest events, over restarts too, with a way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.errors import DeadLetterLimit
from feature_repo.streams.payments import PAYMENTS
from flows.accept.dead_letter_limit import DeadLetterLimiter
from flows.accept.decode import Decoder
from flows.blocks import Events, RawBlock
from flows.bootstrap import run
from flows.settings import FlowSettings
from tests.kits.flow_output import dead_letter_rows, log_rows
from tests.kits.payments import encoded, payment, write_lines

decode = Decoder(PAYMENTS)


def events(good: int, bad: int) -> Events:
    payloads = [encoded(payment(n)) for n in range(good)] + [b"{"] * bad
    places = np.arange(len(payloads))
    return decode(RawBlock("bus:payments:0", -1, places, places, payloads))


def gauge(home: Path, **options: float) -> DeadLetterLimiter:
    settings = FlowSettings(home=home, **{"dead_letter_window": 100, "dead_letter_limit": 0.5} | options)  # type: ignore[arg-type]
    return DeadLetterLimiter(PAYMENTS, settings)


def test_few_bad_events_do_not_stop_the_flow(home: Path) -> None:
    count, block = gauge(home, dead_letter_window=10_000), events(150, 140)
    for _ in range(100):
        count(block)


def test_fewer_events_than_the_window_never_stop_it(home: Path) -> None:
    count = gauge(home)
    count(events(0, 99))
    with pytest.raises(DeadLetterLimit, match="100 of the last 100 payments"):
        count(events(0, 1))


def test_share_is_of_the_latest_events_not_of_all_since_the_start(home: Path) -> None:
    count = gauge(home)
    for _ in range(50):
        count(events(20, 0))
    for _ in range(5):
        count(events(10, 10))
    with pytest.raises(DeadLetterLimit, match="51 of the last 100 payments"):
        count(events(9, 11))


def test_bad_events_long_past_do_not_count(home: Path) -> None:
    count = gauge(home)
    count(events(50, 50))
    count(events(100, 0))
    for _ in range(30):
        count(events(6, 4))


def test_restart_on_the_same_bad_events_stops_before_it_lets_a_window_of_them_pass(home: Path) -> None:
    with pytest.raises(DeadLetterLimit):
        gauge(home)(events(0, 100))
    for _ in range(3):
        with pytest.raises(DeadLetterLimit):
            gauge(home)(events(0, 2))


def test_restart_after_the_repair_goes_on_and_forgets_the_stop(home: Path) -> None:
    with pytest.raises(DeadLetterLimit):
        gauge(home)(events(0, 100))
    count = gauge(home)
    for _ in range(11):
        count(events(9, 1))
    gauge(home)(events(0, 99))


def test_one_start_with_a_limit_of_1_lets_them_through_and_forgets_the_stop(home: Path) -> None:
    with pytest.raises(DeadLetterLimit, match="MILLSTREAM_DEAD_LETTER_LIMIT=1"):
        gauge(home)(events(0, 100))
    gauge(home, dead_letter_limit=1)(events(0, 500))
    gauge(home)(events(0, 99))


def test_stopped_flow_has_kept_nothing_undurable_and_ends_exact_once_let_through(
    home: Path, tmp_path: Path
) -> None:
    bad = write_lines(tmp_path / "in.jsonl", [encoded(payment(0)), *([b"{}"] * 3_000)])
    settings = FlowSettings(
        source_files=str(bad), epoch_ms=100, block_events=100, epoch_events=500, dead_letter_window=1_000
    )
    durable = []
    for _ in range(3):
        with pytest.raises(DeadLetterLimit):
            run("payments", settings)
        durable.append(len(dead_letter_rows(settings)))
    assert durable[1] == durable[2] < 1_000  # the first restart published what was durable already
    run("payments", settings.model_copy(update={"dead_letter_limit": 1.0}))
    assert sorted(letter["source_offset"] for letter in dead_letter_rows(settings)) == list(range(1, 3_001))
    assert log_rows(settings).num_rows == 1
