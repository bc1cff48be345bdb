"""The account's payment before this one, if it lies within 30 days. One value per account, exact as of the payment."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import account
from feature_repo.declare.windowed_schema import schema_of
from sources import payments

_aggregations = [
    Aggregation(name="account_amount_last", function="last", column="amount", time_window=timedelta(days=30)),
    Aggregation(
        name="account_seconds_since_last",
        function="seconds_since_last",
        column="event_id",
        time_window=timedelta(days=30),
    ),
]

account_previous = StreamFeatureView(
    name="account_previous",
    entities=[account],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    description="The previous payment",
    # Only the newest counts; a few more, so that a late or concurrent read still finds its own.
    tags={"access": "anonymous", "capacity": "16"},
)
