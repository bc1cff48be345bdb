"""What the merchant took in the last month, in whole days (UTC). One value per merchant, as of the last midnight."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import merchant
from feature_repo.declare.windowed_schema import schema_of
from sources import payments

_SPAN = timedelta(days=30)

_aggregations = [
    Aggregation(name="merchant_payment_count_30d", function="count", column="event_id", time_window=_SPAN),
    Aggregation(name="merchant_amount_sum_30d", function="sum", column="amount", time_window=_SPAN),
    Aggregation(name="merchant_amount_mean_30d", function="mean", column="amount", time_window=_SPAN),
    Aggregation(name="merchant_amount_max_30d", function="max", column="amount", time_window=_SPAN),
]

merchant_month = StreamFeatureView(
    name="merchant_month",
    entities=[merchant],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    enable_tiling=True,
    tiling_hop_size=timedelta(days=1),
    description="Tiled windows over the payments to a merchant",
    tags={"access": "anonymous"},
)
