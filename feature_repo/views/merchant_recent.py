"""Who paid the merchant in the last five minutes. One value per merchant, exact as of the payment."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import merchant
from feature_repo.declare.windowed_schema import schema_of
from sources import payments

_SPAN = timedelta(minutes=5)

_aggregations = [
    Aggregation(name="merchant_payment_count_5m", function="count", column="event_id", time_window=_SPAN),
    Aggregation(name="merchant_amount_sum_5m", function="sum", column="amount", time_window=_SPAN),
    Aggregation(
        name="merchant_payers_unique_5m", function="count_distinct", column="account_id", time_window=_SPAN
    ),
]

merchant_recent = StreamFeatureView(
    name="merchant_recent",
    entities=[merchant],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    description="Exact windows over the payments to a merchant",
    tags={"access": "anonymous"},
)
