"""Workload W1: a month of payments, and the features asked of each of them.

1M payments over 30 days, 50,000 accounts of Zipf activity (s = 1.1, so the busiest has 14 % of all payments), 5,000
merchants, log-normal amounts. Per account: count, sum, mean and max of the amount over 5 min, 1 h, 1 d and 30 d,
distinct merchants over 1 h, the previous amount and the seconds since it. Per merchant: count and mean of the amount
over 1 h and 1 d.

All as of the payment, by our definition of a window: `[t - W, t)`, the payment itself not in it. Times are all
different, so a reference that sorts by time alone orders payments as we do.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from feature_repo.windows.spec import Aggregate, ViewSpec

EVENTS: Final = 1_000_000
ACCOUNTS: Final = 50_000
MERCHANTS: Final = 5_000
SPAN_US: Final = 30 * 86_400_000_000
START_US: Final = 1_793_491_200_000_000  # 2026-11-01
SECOND: Final = 1_000_000
WINDOWS: Final = {
    "5m": 300 * SECOND,
    "1h": 3_600 * SECOND,
    "1d": 86_400 * SECOND,
    "30d": 30 * 86_400 * SECOND,
}
LATENESS_US: Final = 600 * SECOND


def payments(
    events: int = EVENTS, *, accounts: int = ACCOUNTS, span_us: int = SPAN_US, seed: int = 1
) -> pa.Table:
    """Payments in time order: event_id, event_timestamp, account_id, merchant_id, amount."""
    draw = np.random.default_rng(seed)
    ranks = np.arange(1, accounts + 1, dtype=np.float64) ** -1.1
    which = np.searchsorted(np.cumsum(ranks) / ranks.sum(), draw.random(events)).clip(max=accounts - 1)
    shuffled = draw.permutation(accounts)  # so that rank does not show in the name
    times = START_US + np.sort(draw.choice(span_us // 1000, events, replace=False)) * 1000
    return pa.table(
        {
            "event_id": _names("p", np.arange(events), 10),
            "event_timestamp": pa.array(times).cast(pa.timestamp("us", tz="UTC")),
            "account_id": _names("a", shuffled[which], 6),
            "merchant_id": _names("m", draw.integers(0, MERCHANTS, events), 5),
            "amount": np.round(draw.lognormal(3, 1, events), 2),
        }
    )


def account_view(capacity: int = 1024) -> ViewSpec:
    aggregates = [
        Aggregate(f"amount_{function}_{name}", function, "amount", window)
        for name, window in WINDOWS.items()
        for function in ("count", "sum", "mean", "max")
    ]
    aggregates += [
        Aggregate("merchants_unique_1h", "count_distinct", "merchant_id", WINDOWS["1h"]),
        Aggregate("amount_last_30d", "last", "amount", WINDOWS["30d"]),
        Aggregate("seconds_since_last_30d", "seconds_since_last", "amount", WINDOWS["30d"]),
    ]
    return ViewSpec("w1_account", ("account_id",), 0, capacity, LATENESS_US, tuple(aggregates))


def merchant_view(capacity: int = 1024) -> ViewSpec:
    aggregates = [
        Aggregate(f"amount_{function}_{name}", function, "amount", WINDOWS[name])
        for name in ("1h", "1d")
        for function in ("count", "mean")
    ]
    return ViewSpec("w1_merchant", ("merchant_id",), 0, capacity, LATENESS_US, tuple(aggregates))


def _names(prefix: str, numbers: np.ndarray, width: int) -> pa.Array:
    """`a000017`, made of byte columns: a million formatted strings would take longer than what is measured."""
    digits = np.empty((len(numbers), width + 1), np.uint8)
    digits[:, 0] = ord(prefix)
    rest = numbers.astype(np.int64)
    for place in range(width, 0, -1):
        digits[:, place] = rest % 10 + 48
        rest = rest // 10
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * (width + 1)
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(digits.tobytes()))
