"""The windows over labels, the same for payer and payee: what became known of frauds, as of when it became known."""

from datetime import timedelta
from typing import Final

from feast.aggregation import Aggregation

_SPANS: Final = {f"{days}d": timedelta(days=days) for days in (1, 3, 7, 30)}
_MONTH: Final = timedelta(days=30)


def label_windows(who: str) -> list[Aggregation]:
    """Return the windows over labels of `who` ("account" or "merchant").

    Frauds, and payments whose outcome became known: in 1, 3, 7 and 30 days, and decayed over 30 days. Since the last
    report of a fraud: seconds, and statements without fraud.
    """
    counts = [
        Aggregation(
            name=f"{who}_{what}_count_{window}", function="sum", column=f"{what}_change", time_window=span
        )
        for window, span in _SPANS.items()
        for what in ("fraud", "known")
    ]
    fading = [
        Aggregation(
            name=f"{who}_{what}_decayed_30d",
            function="decayed_sum",
            column=f"{what}_change",
            time_window=_MONTH,
        )
        for what in ("fraud", "known")
    ]
    since = [
        Aggregation(
            name=f"{who}_{name}_since_fraud", function=function, column="fraud_reported", time_window=_MONTH
        )
        for name, function in (("seconds", "seconds_since_last"), ("clean", "count_since"))
    ]
    return [*counts, *fading, *since]
