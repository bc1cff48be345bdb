"""What may be computed over a window: Feast's function names, the kernels' codes for them, and which kind of view knows them."""

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
"""Functions of a sketch view -> per cent. Of n sorted values, the one at rank floor(q (n - 1)), to within 1 % of it (`sketch`)."""

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
"""Feast function name -> kernel code. What is not plain from the name:

* `std`, `var`: the sample statistics (n - 1), null below two values.
* `last_2`, `last_3`: the second and third newest value that is not null; null if there are fewer.
* `seconds_since_last`: since the newest row whose column is not null.
* `count_since`: rows after the newest row whose column is not null; null if the window has none.
* `decayed_sum`: every value halves with each quarter of the window it is old.
* `mean_hop_count`, `mean_hop_max`: means over the hops that have rows (values).
"""

TILED_ONLY: Final = frozenset({"mean_hop_count", "mean_hop_max"})
EXACT_ONLY: Final = frozenset({"count_distinct", "count_since", "last_2", "last_3"})
INTEGER_FUNCTIONS: Final = frozenset({"count", "count_distinct", "count_since"})
"""Functions whose value is a whole number; every other value is a float64. `count` and `count_distinct` of an empty window are 0."""

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
"""Functions of a column's number."""
PRESENCE_FUNCTIONS: Final = frozenset({"count", "count_since", "seconds_since_last"})
"""Functions of whether a column is null."""
NEVER_NULL: Final = frozenset({"", "event_id", "event_timestamp", "label_id"})
"""Columns of which no row has a null, besides join keys and the id column."""
