"""Feast's lists as arrays and back: an on-demand view is given a list per column, None = null, and gives lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from feature_repo.enrichment.functions import Floats

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_DAY_US: Final = 86_400e6


def floats(*columns: Sequence[Any]) -> Floats:
    """Numbers as float64, None as NaN: [rows] of one column, [columns, rows] of several. One payment asks for many at little more cost."""
    return np.array(columns if len(columns) > 1 else columns[0], np.float64)


def as_us(values: Sequence[datetime | None]) -> Floats:
    """Times as microseconds UTC, None and NaT as NaN; a time without a zone is UTC."""
    return np.array([_us(v) for v in values], np.float64)


def as_list(values: Floats) -> list[float | None]:
    """The inverse of `floats`, of one column."""
    return [None if v != v else v for v in values.tolist()]  # noqa: PLR0124 - NaN


def ratios(of: Sequence[float | None], over: Sequence[float | None]) -> list[float | None]:
    """`functions.ratio` of lists: for the one payment being scored, a tenth of what arrays of length one cost."""
    return [
        None if a is None or not b or (quotient := a / b) != quotient else quotient
        for a, b in zip(of, over, strict=True)
    ]


def days_between(starts: Sequence[datetime | None], ends: Sequence[datetime | None]) -> list[float | None]:
    """`functions.days_between` of lists of times: whole microseconds, divided once."""
    us = zip(map(_us, starts), map(_us, ends), strict=True)
    return [None if start != start or end != end else (end - start) / _DAY_US for start, end in us]  # noqa: PLR0124 - NaN


def _us(value: datetime | None) -> float:
    if value is None or value != value:  # noqa: PLR0124 - NaT
        return np.nan
    since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
    return float(
        since // _US
    )  # whole numbers: pandas, which Feast gives us off line, would divide nanoseconds as float64
