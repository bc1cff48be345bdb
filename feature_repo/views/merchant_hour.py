"""What the merchant took in the last hour, in whole minutes. One value per merchant, as of the last full minute."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import merchant
from feature_repo.declare.windowed_schema import schema_of
from sources import payments

_SPAN = timedelta(hours=1)

_aggregations = [
    Aggregation(name="merchant_payment_count_1h", function="count", column="event_id", time_window=_SPAN),
    Aggregation(name="merchant_amount_sum_1h", function="sum", column="amount", time_window=_SPAN),
    Aggregation(name="merchant_amount_mean_1h", function="mean", column="amount", time_window=_SPAN),
    Aggregation(name="merchant_amount_max_1h", function="max", column="amount", time_window=_SPAN),
]

merchant_hour = StreamFeatureView(
    name="merchant_hour",
    entities=[merchant],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    enable_tiling=True,
    tiling_hop_size=timedelta(minutes=1),
    description="Tiled windows over the payments to a merchant",
    tags={"access": "anonymous"},
)
