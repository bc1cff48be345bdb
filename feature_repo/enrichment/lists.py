"""Feast's lists as arrays and back: an on-demand view is given a list per column, None = null, and gives lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from feature_repo.enrichment.functions import Floats

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)


def floats(*columns: Sequence[Any]) -> Floats:
    """Numbers as float64, None as NaN: [rows] of one column, [columns, rows] of several. One payment asks for many at little more cost."""
    return np.array(columns if len(columns) > 1 else columns[0], np.float64)


def as_us(values: Sequence[datetime | None]) -> Floats:
    """Times as microseconds UTC, None and NaT as NaN; a time without a zone is UTC."""
    return np.array([_us(v) for v in values], np.float64)


def as_list(values: Floats) -> list[float | None]:
    """The inverse of `floats`, of one column."""
    return [None if v != v else v for v in values.tolist()]  # noqa: PLR0124 - NaN


def as_lists(names: Sequence[str], values: Floats) -> dict[str, list[float | None]]:
    """Several columns, [columns, rows], by their names."""
    return {name: as_list(column) for name, column in zip(names, values, strict=True)}


def _us(value: datetime | None) -> float:
    if value is None or value != value:  # noqa: PLR0124 - NaT
        return np.nan
    since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
    return float(
        since // _US
    )  # whole numbers: pandas, which Feast gives us off line, would divide nanoseconds as float64
