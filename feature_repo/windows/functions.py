"""The functions that can be computed over a window.

Holds Feast's names, the kernels' codes, and the kind of view that has each function.
"""

from collections.abc import Mapping
from typing import Final

(
    COUNT,
    SUM,
    MEAN,
    MIN,
    MAX,
    STD,
    VAR,
    COUNT_DISTINCT,
    FIRST,
    LAST,
    SECONDS_SINCE_LAST,
    MEAN_HOP_COUNT,
    MEAN_HOP_MAX,
    LAST_2,
    LAST_3,
    DECAYED_SUM,
    COUNT_SINCE,
    QUANTILE,
) = range(18)

QUANTILES: Final[Mapping[str, int]] = {"median": 50, "p90": 90, "p95": 95, "p99": 99}
"""Functions of a sketch view -> per cent. Of n sorted values, the one at rank floor(q (n - 1)), within 1 % (see
`kernels.sketch`)."""

FUNCTIONS: Final[Mapping[str, int]] = {
    "count": COUNT,
    "sum": SUM,
    "mean": MEAN,
    "min": MIN,
    "max": MAX,
    "std": STD,
    "var": VAR,
    "count_distinct": COUNT_DISTINCT,
    "first": FIRST,
    "last": LAST,
    "last_2": LAST_2,
    "last_3": LAST_3,
    "seconds_since_last": SECONDS_SINCE_LAST,
    "count_since": COUNT_SINCE,
    "decayed_sum": DECAYED_SUM,
    "mean_hop_count": MEAN_HOP_COUNT,
    "mean_hop_max": MEAN_HOP_MAX,
    **dict.fromkeys(QUANTILES, QUANTILE),
}
"""Feast function name -> kernel code. What the name does not say:

* `std`, `var`: the sample statistics (n - 1), null below two values.
* `last_2`, `last_3`: the second and third newest value that is not null; null if there are fewer values.
* `seconds_since_last`: seconds since the newest row whose column is not null.
* `count_since`: number of rows after the newest row whose column is not null; null if the window has none.
* `decayed_sum`: a value's weight halves with each quarter of the window of its age.
* `mean_hop_count`, `mean_hop_max`: means over the hops that have rows (values).
"""

TILED_ONLY: Final = frozenset({"mean_hop_count", "mean_hop_max"})
"""Functions that only a tiled view can compute."""
EXACT_ONLY: Final = frozenset({"count_distinct", "count_since", "last_2", "last_3"})
"""Functions that only an exact view can compute."""
INTEGER_FUNCTIONS: Final = frozenset({"count", "count_distinct", "count_since"})
"""Functions whose value is a whole number; every other value is a float64. `count` and `count_distinct` of an empty
window are 0."""

VALUE_FUNCTIONS: Final = frozenset(
    {
        "sum",
        "mean",
        "min",
        "max",
        "std",
        "var",
        "first",
        "last",
        "last_2",
        "last_3",
        "decayed_sum",
        "mean_hop_max",
    }
) | frozenset(QUANTILES)
"""Functions of the values of a column."""
PRESENCE_FUNCTIONS: Final = frozenset({"count", "count_since", "seconds_since_last"})
"""Functions that only need to know which rows have a value."""
NEVER_NULL: Final = frozenset({"", "event_id", "event_timestamp", "label_id"})
"""Columns that are never null, besides join keys and the id column."""
