"""Whether the account has paid this payee. One value per pair of account and merchant, exact as of the payment."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import account, merchant
from feature_repo.declare.windowed_schema import schema_of
from sources import payments

_SPAN = timedelta(days=30)

_aggregations = [
    Aggregation(name="pair_payment_count_30d", function="count", column="event_id", time_window=_SPAN),
    Aggregation(
        name="pair_seconds_since_last", function="seconds_since_last", column="event_id", time_window=_SPAN
    ),
]

account_merchant = StreamFeatureView(
    name="account_merchant",
    entities=[account, merchant],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    description="Exact windows over the payments of one account to one merchant",
    tags={"access": "anonymous", "capacity": "128"},
)
