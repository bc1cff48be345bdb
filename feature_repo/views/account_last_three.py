"""The account's last three payments within 30 days. One value per account, exact as of the payment."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import account
from feature_repo.declare.windowed_schema import schema_of
from sources import payments

_SPAN = timedelta(days=30)

_aggregations = [
    Aggregation(name="account_amount_last_2", function="last_2", column="amount", time_window=_SPAN),
    Aggregation(name="account_amount_last_3", function="last_3", column="amount", time_window=_SPAN),
    Aggregation(
        name="account_home_distance_last", function="last", column="home_distance_m", time_window=_SPAN
    ),
    Aggregation(
        name="account_home_distance_last_2", function="last_2", column="home_distance_m", time_window=_SPAN
    ),
    Aggregation(
        name="account_home_distance_last_3", function="last_3", column="home_distance_m", time_window=_SPAN
    ),
]

account_last_three = StreamFeatureView(
    name="account_last_three",
    entities=[account],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    description="Amounts of the two payments before the last (account_previous has the last), distances of all three",
    tags={"capacity": "32", "access": "anonymous"},
)
