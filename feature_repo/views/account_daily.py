"""The account's habits over a week and a month, in whole days (UTC). One value per account, as of the last midnight."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import account
from feature_repo.declare.windowed_schema import schema_of
from sources import payments

_WINDOWS = {"7d": timedelta(days=7), "30d": timedelta(days=30)}

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
                name=f"account_amount_max_{window}", function="max", column="amount", time_window=span
            ),
        )
    ),
    Aggregation(
        name="account_daily_count_mean_30d",
        function="mean_hop_count",
        column="event_id",
        time_window=timedelta(days=30),
    ),
    Aggregation(
        name="account_daily_max_mean_30d",
        function="mean_hop_max",
        column="amount",
        time_window=timedelta(days=30),
    ),
]

account_daily = StreamFeatureView(
    name="account_daily",
    entities=[account],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    enable_tiling=True,
    tiling_hop_size=timedelta(days=1),
    description="Windows of whole days over the account's payments",
    tags={"access": "anonymous"},
)
