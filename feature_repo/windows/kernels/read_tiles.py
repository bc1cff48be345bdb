"""The kernel that reads a tiled view: the features of a key's sorted tiles as of `t`.

Windows are whole hops, `[floor((t - W) / h) h, floor(t / h) h)`. Merging partial aggregates per hop is the method of
J. Li et al.: "No pane, no gain: efficient evaluation of sliding-window aggregates over data streams", SIGMOD Record
34(1), 2005.
"""

from typing import Any

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Floats
from feature_repo.windows.functions import (
    COUNT,
    DECAYED_SUM,
    FIRST,
    LAST,
    MAX,
    MEAN,
    MEAN_HOP_COUNT,
    MEAN_HOP_MAX,
    MIN,
    SECONDS_SINCE_LAST,
    STD,
    SUM,
    VAR,
)
from feature_repo.windows.kernels.decay import weight
from feature_repo.windows.kernels.exact_sum import add_value, merge_limbs, to_float, variance
from feature_repo.windows.kernels.rows import INCOMPLETE, first_not_before
from feature_repo.windows.kernels.tables import (
    HOP,
    READ_A,
    READ_B,
    READ_C,
    READ_FUNCTION,
    READ_OUT,
    READ_WINDOW,
    ReadTables,
    Rows,
)
from feature_repo.windows.kernels.words import NOTHING, TILE_HOP, TILE_LAST_TS, TILE_ROWS


@kernel
def read_tiles(rows: Rows, floor: int, tables: ReadTables, t: int, out: Floats) -> int:
    """Write the features as of `t` (us) of tiles sorted by hop to `out`, null = NaN. Returns the flags.

    `floor` is the latest event time that may be missing.
    """
    ints, floats, start = rows.ints, rows.floats, rows.start
    reads, hop = tables.reads, tables.measures[HOP]
    stop = first_not_before(ints, start, rows.end, t // hop)
    flags = 0
    for r in range(len(reads)):
        function, a, b, c = reads[r, READ_FUNCTION], reads[r, READ_A], reads[r, READ_B], reads[r, READ_C]
        first_hop = (t - reads[r, READ_WINDOW]) // hop
        if floor >= first_hop * hop:
            flags |= INCOMPLETE
            out[reads[r, READ_OUT]] = np.nan
            continue
        sums = np.zeros(6, np.int64)
        count: Any = np.int64(0)
        hops, value, total = 0, np.nan, 0.0
        row = stop - 1
        newest = np.int64(NOTHING)
        while row >= start and ints[row, TILE_HOP] >= first_hop:
            hops += 1
            if function == COUNT:
                count += ints[row, a] if a >= 0 else ints[row, TILE_ROWS]
            elif function == SUM:
                merge_limbs(sums, 0, ints[row], a, 2)
            elif function == MEAN:
                count += ints[row, a]
                merge_limbs(sums, 0, ints[row], b, 2)
            elif function == STD or function == VAR:
                count += ints[row, a]
                merge_limbs(sums, 0, ints[row], b, 2)
                merge_limbs(sums, 2, ints[row], c, 4)
            elif function == MIN:
                if not value <= floats[row, a] and not np.isnan(floats[row, a]):
                    value = floats[row, a]
            elif function == MAX:
                if not value >= floats[row, a] and not np.isnan(floats[row, a]):
                    value = floats[row, a]
            elif function == FIRST:
                if not np.isnan(floats[row, b]):
                    value = floats[row, b]
            elif function == LAST:
                if np.isnan(value):
                    value = floats[row, b]
            elif function == SECONDS_SINCE_LAST:
                newest = max(newest, ints[row, a] if a >= 0 else ints[row, TILE_LAST_TS])
            elif function == DECAYED_SUM:  # always the newest tile first, so the sum has the same bits
                age = t - (ints[row, TILE_HOP] + 1) * hop
                total += to_float(ints[row], a) * weight(age, reads[r, READ_WINDOW])
            elif function == MEAN_HOP_COUNT:
                count += ints[row, TILE_ROWS]
            elif function == MEAN_HOP_MAX:
                if np.isnan(floats[row, a]):
                    hops -= 1
                else:
                    add_value(sums, 0, floats[row, a])
            row -= 1
        if function == COUNT:
            total = float(count)
        elif function == SUM:
            total = to_float(sums, 0)
        elif function == MEAN:
            total = to_float(sums, 0) / count if count > 0 else np.nan
        elif function == STD or function == VAR:
            total = variance(sums, 0, sums, 2, count) if count > 1 else np.nan
            total = np.sqrt(total) if function == STD else total
        elif function == SECONDS_SINCE_LAST:
            total = (t - newest) / 1e6 if newest != NOTHING else np.nan
        elif function == MEAN_HOP_COUNT:
            total = count / hops if hops > 0 else np.nan
        elif function == MEAN_HOP_MAX:
            total = to_float(sums, 0) / hops if hops > 0 else np.nan
        elif function != DECAYED_SUM:
            total = value
        out[reads[r, READ_OUT]] = total
    return flags
