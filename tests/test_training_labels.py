"""Given / expect tables for what a label is at an instant, and for what a split lets through."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.errors import DataError, LogError
from tests.test_training_world import START, label_log, make_world
from training.labels import Window, as_known, read_labels, read_payments, read_window, to_us
from training.split import NONE, TEST, TRAIN, VALID, time_split

DAY = timedelta(days=1)
US = timedelta(microseconds=1)


def _at(days: float) -> datetime:
    return START + timedelta(days=days)


def _known(statements: list[tuple[str, bool, str | None, datetime]], at: datetime) -> tuple[int, str | None]:
    labels = as_known(pa.table({"event_id": ["p"]}), label_log(statements), known_at=np.array([to_us(at)]))
    return int(labels.target[0]), labels.fraud_type[0].as_py()


REPORT = ("p", True, "probe", _at(2))
OTHER_KIND = ("p", True, "drain", _at(4))
WITHDRAWN = ("p", False, None, _at(4))


@pytest.mark.parametrize(
    ("statements", "at", "expected"),
    [
        pytest.param([], _at(9), (0, None), id="never reported"),
        pytest.param([("other", True, "drain", _at(1))], _at(9), (0, None), id="another payment's label"),
        pytest.param([REPORT], _at(2) - US, (0, None), id="not yet known"),
        pytest.param([REPORT], _at(2), (1, "probe"), id="known from its very instant"),
        pytest.param([REPORT, OTHER_KIND], _at(3), (1, "probe"), id="before the correction"),
        pytest.param([REPORT, OTHER_KIND], _at(4), (1, "drain"), id="corrected kind"),
        pytest.param([OTHER_KIND, REPORT], _at(5), (1, "drain"), id="order of arrival does not matter"),
        pytest.param([REPORT, WITHDRAWN], _at(3), (1, "probe"), id="before the withdrawal"),
        pytest.param([REPORT, WITHDRAWN], _at(5), (0, None), id="withdrawn"),
        pytest.param([("p", True, None, _at(1))], _at(5), (1, None), id="fraud of unknown kind"),
    ],
)
def test_the_latest_statement_known_by_then_holds(
    statements: list[tuple[str, bool, str | None, datetime]], at: datetime, expected: tuple[int, str | None]
) -> None:
    assert _known(statements, at) == expected


def test_chargeback_after_cutoff_is_invisible_to_training(tmp_path: Path) -> None:
    pq.write_table(label_log([REPORT, WITHDRAWN]), tmp_path / "a.parquet")
    assert read_labels(tmp_path, cutoff=_at(3)).num_rows == 1


@settings(deadline=None, max_examples=30)
@given(
    events=st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 20)),
        max_size=25,
        unique_by=lambda e: (e[0], e[2]),
    ),
    asked=st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 21)), min_size=1, max_size=12),
)
def test_labels_agree_with_reading_the_statements_one_by_one(
    events: list[tuple[int, bool, int]], asked: list[tuple[int, int]]
) -> None:
    table = label_log([(f"p{p}", fraud, "probe" if fraud else None, _at(day)) for p, fraud, day in events])
    rows = pa.table({"event_id": [f"p{p}" for p, _ in asked]})
    labels = as_known(rows, table, known_at=np.array([to_us(_at(day)) for _, day in asked]))
    for i, (payment, day) in enumerate(asked):
        said = sorted((d, fraud) for p, fraud, d in events if p == payment and d <= day)
        assert labels.target[i] == (said[-1][1] if said else 0)


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
