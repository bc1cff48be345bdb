"""What the account did in the last minute, 5 minutes, hour and day. One value per account, exact as of the payment."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import account
from feature_repo.declare.windowed_schema import schema_of
from sources import payments

_WINDOWS = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}

_aggregations = [
    *(
        aggregation
        for window, span in _WINDOWS.items()
        for aggregation in (
            Aggregation(
                name=f"account_payment_count_{window}", function="count", column="event_id", time_window=span
            ),
            Aggregation(
                name=f"account_amount_sum_{window}", function="sum", column="amount", time_window=span
            ),
            Aggregation(
                name=f"account_amount_mean_{window}", function="mean", column="amount", time_window=span
            ),
            Aggregation(
                name=f"account_amount_min_{window}", function="min", column="amount", time_window=span
            ),
            Aggregation(
                name=f"account_amount_max_{window}", function="max", column="amount", time_window=span
            ),
            Aggregation(
                name=f"account_amount_std_{window}", function="std", column="amount", time_window=span
            ),
        )
    ),
    Aggregation(
        name="account_payees_unique_5m",
        function="count_distinct",
        column="merchant_id",
        time_window=timedelta(minutes=5),
    ),
    Aggregation(
        name="account_payees_unique_1h",
        function="count_distinct",
        column="merchant_id",
        time_window=timedelta(hours=1),
    ),
]

account_recent = StreamFeatureView(
    name="account_recent",
    entities=[account],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    description="Exact windows over the account's payments",
    tags={"access": "anonymous"},
)
