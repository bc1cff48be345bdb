"""Given / expect tables for which payments are read, and for what a split lets through. Labels:
test_training_label_view.py.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.errors import DataError, LogError
from tests.training.test_training_world import START, make_world
from training.labels import Window, read_payments, read_window, to_us
from training.split import NONE, TEST, TRAIN, VALID, time_split

DAY = timedelta(days=1)
US = timedelta(microseconds=1)


def _at(days: float) -> datetime:
    return START + timedelta(days=days)


def test_payments_younger_than_the_label_delay_are_left_out(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", rows=500)
    log = world.settings.payments_log
    window = read_window(log, since=None, until=None, cutoff=_at(20))
    rows = read_payments(log, window, label_delay=3 * DAY)
    last = rows["event_timestamp"][-1].as_py()
    assert _at(16) < last <= _at(17)


def test_window_is_half_open(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", rows=50)
    times = world.payments["event_timestamp"].to_pylist()
    window = read_window(world.settings.payments_log, since=times[3], until=times[9], cutoff=times[-1])
    rows = read_payments(world.settings.payments_log, window, label_delay=US)
    assert rows["event_timestamp"].to_pylist() == times[3:9]


def test_a_column_the_log_does_not_have_yet_is_null(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", rows=50)
    log = world.settings.payments_log
    window = read_window(log, since=None, until=None, cutoff=None)
    rows = read_payments(log, window, label_delay=US, also=["created_timestamp", "shoe_size"])
    assert rows.column_names[-1] == "shoe_size"
    assert rows["shoe_size"].null_count == rows.num_rows > 0


def test_an_empty_log_says_which_flow_to_run(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="Run the payments flow first"):
        read_window(tmp_path, since=None, until=None, cutoff=None)


def test_a_window_outside_the_log_says_what_the_log_spans(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", rows=50)
    with pytest.raises(DataError, match="2026-09-01"):
        read_window(
            world.settings.payments_log, since=datetime(2030, 1, 1, tzinfo=UTC), until=None, cutoff=None
        )


MONTH = Window(START, _at(30), _at(30))
SPLIT = time_split(MONTH, label_delay=3 * DAY, valid=4 * DAY, test=5 * DAY, warmup=1 * DAY)


def test_parts_are_separated_by_the_label_delay() -> None:
    assert SPLIT.valid.since - SPLIT.train.until == 3 * DAY
    assert SPLIT.test.since - SPLIT.valid.until == 3 * DAY
    assert SPLIT.train.since == _at(1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-1, 31 * 86_400), min_size=1, max_size=60))
def test_no_label_information_crosses_into_a_later_part(seconds: list[int]) -> None:
    event_us = np.array([to_us(START + timedelta(seconds=s)) for s in seconds])
    part = SPLIT.assign(event_us)
    known = SPLIT.known_at(part)
    for mine, later in ((TRAIN, SPLIT.valid), (VALID, SPLIT.test)):
        assert (known[part == mine] <= to_us(later.since)).all()
        assert (event_us[part == mine] < to_us(later.since) - 3 * 86_400_000_000 + 1).all()
    assert (event_us[part == TEST] <= to_us(MONTH.cutoff) - 3 * 86_400_000_000).all()


def test_payments_in_a_gap_belong_to_no_part() -> None:
    inside = [SPLIT.train.until, SPLIT.valid.since - US, SPLIT.valid.until, SPLIT.test.since - US, START]
    assert (SPLIT.assign(np.array([to_us(t) for t in inside])) == NONE).all()


def test_history_too_short_for_a_split_says_how_much_it_takes() -> None:
    with pytest.raises(DataError, match=r"take 19 days.*--valid-days"):
        time_split(
            Window(START, _at(12), _at(12)), label_delay=3 * DAY, valid=4 * DAY, test=5 * DAY, warmup=1 * DAY
        )
