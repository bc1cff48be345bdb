"""The functions of derived columns for lists, which on-demand views take and return per column; None is null."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from feature_repo.enrichment import functions as f
from feature_repo.enrichment.functions import Floats

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)

Numbers = Sequence[float | None]
Times = Sequence[datetime | None]


def floats(values: Sequence[Any]) -> Floats:
    """Return numbers as float64, None as NaN."""
    return np.array(values, np.float64)


def as_us(values: Sequence[datetime | None]) -> Floats:
    """Return times as microseconds UTC, None and NaT as NaN; a time without a zone is UTC."""
    return np.array([_us(v) for v in values], np.float64)


def as_list(values: Floats) -> list[float | None]:
    """Return float64 values as a list, NaN as None."""
    return [None if v != v else v for v in values.tolist()]  # noqa: PLR0124 - NaN


# The functions of `functions` for lists, value by value and with equal bits (a test compares them): for the one payment
# being scored, making an array of length one costs ten times the computation.


def ratios(of: Numbers, over: Numbers) -> list[float | None]:
    """`functions.ratio`."""
    return [
        None if a is None or not b or (quotient := a / b) != quotient else quotient
        for a, b in zip(of, over, strict=True)
    ]


def days_between(starts: Times, ends: Times) -> list[float | None]:
    """`functions.days_between`: whole microseconds, divided once."""
    us = zip(map(_us, starts), map(_us, ends), strict=True)
    return [None if start != start or end != end else (end - start) / f.DAY_US for start, end in us]  # noqa: PLR0124 - NaN


def distances_m(*columns: Numbers) -> list[float | None]:
    """`functions.distance_m` of latitudes and longitudes, and other latitudes and longitudes."""
    places = list(zip(*columns, strict=True))
    known = [not any(v is None or v != v for v in place) for place in places]  # noqa: PLR0124 - NaN
    if not any(known):
        return [None] * len(places)
    latitude, longitude, other_latitude, other_longitude = zip(
        *(place for place, whole in zip(places, known, strict=True) if whole), strict=True
    )
    found = iter(f.EARTH.inv([*longitude], [*latitude], [*other_longitude], [*other_latitude])[2])
    return [next(found) if whole else None for whole in known]


def speeds_kmh(distances: Numbers, seconds: Numbers) -> list[float | None]:
    """`functions.speed_kmh`."""
    return [
        None if d is None or s is None or s != s else min(d / max(s, 1.0) * 3.6, f.FASTEST_KMH)  # noqa: PLR0124 - NaN
        for d, s in zip(distances, seconds, strict=True)
    ]


def are_far(home_distances: Numbers) -> list[float | None]:
    """`functions.is_far`."""
    return [None if d is None else float(d > f.FAR_M) for d in home_distances]


def local_hours(times: Times, home_longitudes: Numbers) -> list[float | None]:
    """`functions.local_hour`."""
    us = zip(map(_us, times), home_longitudes, strict=True)
    return [
        None
        if east is None or east != east or t != t  # noqa: PLR0124 - NaN
        else (math.floor(t / f.HOUR_US) + round(east / 15.0)) % 24.0
        for t, east in us
    ]


def are_night(hours: Numbers) -> list[float | None]:
    """`functions.is_night`."""
    return [None if h is None else float(h >= 22.0 or h < 6.0) for h in hours]


def are_new(counts: Numbers) -> list[float | None]:
    """`functions.is_new`."""
    return [None if n is None or n != n else float(n == 0.0) for n in counts]  # noqa: PLR0124 - NaN


def are_outsized(amounts: Numbers, upper_quantiles: Numbers, counts: Numbers) -> list[float | None]:
    """`functions.is_outsized`."""
    return [
        float(None not in (a, upper, n) and n >= f.OUTSIZED_AFTER and a > f.OUTSIZED * upper)  # type: ignore[operator]
        for a, upper, n in zip(amounts, upper_quantiles, counts, strict=True)
    ]


def _us(value: datetime | None) -> float:
    if value is None or value != value:  # noqa: PLR0124 - NaT
        return np.nan
    since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
    return float(
        since // _US
    )  # whole numbers: pandas, which Feast passes offline, would divide nanoseconds as float64
