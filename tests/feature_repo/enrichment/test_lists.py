"""What is computed of lists for the payment being scored is, bit for bit, what is computed of arrays for the log."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.enrichment import functions as f
from feature_repo.enrichment import lists

NULLS = st.sampled_from([None, float("nan")])
NUMBERS = NULLS | st.floats(-1e12, 1e12) | st.integers(-3, 12) | st.just(0.0) | st.just(5e-324)
LATITUDES, LONGITUDES = NULLS | st.floats(-90, 90), NULLS | st.floats(-180, 180)
TIMES = st.none() | st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = {
    "ratio": (lists.ratios, f.ratio, (NUMBERS, NUMBERS)),
    "days": (lists.days_between, f.days_between, (TIMES, TIMES)),
    "distance": (lists.distances_m, f.distance_m, (LATITUDES, LONGITUDES, LATITUDES, LONGITUDES)),
    "speed": (lists.speeds_kmh, f.speed_kmh, (st.none() | st.floats(0, 2e7), NUMBERS)),
    "far": (lists.are_far, f.is_far, (st.none() | st.floats(0, 2e5),)),
    "hour": (lists.local_hours, f.local_hour, (TIMES, LONGITUDES)),
    "night": (lists.are_night, f.is_night, (st.none() | st.floats(0, 23),)),
    "new": (lists.are_new, f.is_new, (NUMBERS,)),
    "outsized": (lists.are_outsized, f.is_outsized, (NUMBERS, NUMBERS, NUMBERS)),
}


def _array(values: list[Any]) -> np.ndarray:
    if any(isinstance(v, datetime) for v in values):
        return np.array(
            [np.nan if v is None else (v - EPOCH) // timedelta(microseconds=1) for v in values], np.float64
        )
    return lists.floats(values)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_lists_say_what_arrays_say(name: str, data: st.DataObject) -> None:
    of_lists, of_arrays, kinds = CASES[name]
    rows = data.draw(st.lists(st.tuples(*kinds), min_size=1, max_size=5))
    columns = [list(column) for column in zip(*rows, strict=True)]
    with np.errstate(all="ignore"):
        expected = lists.as_list(of_arrays(*map(_array, columns)))
    assert [v and float(v).hex() for v in of_lists(*columns)] == [v and float(v).hex() for v in expected]
