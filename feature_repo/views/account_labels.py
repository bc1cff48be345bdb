"""What is known of frauds on the account. One value per account, exact as of the payment: a label counts from the moment it became known."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import account
from schema_of import schema_of
from sources import labels

_SPANS = {f"{days}d": timedelta(days=days) for days in (1, 3, 7, 30)}
_MONTH = timedelta(days=30)

_aggregations = [
    *(
        aggregation
        for window, span in _SPANS.items()
        for aggregation in (
            Aggregation(
                name=f"account_fraud_count_{window}", function="sum", column="fraud_change", time_window=span
            ),
            Aggregation(
                name=f"account_known_count_{window}", function="sum", column="known_change", time_window=span
            ),
        )
    ),
    Aggregation(
        name="account_fraud_decayed_30d", function="decayed_sum", column="fraud_change", time_window=_MONTH
    ),
    Aggregation(
        name="account_known_decayed_30d", function="decayed_sum", column="known_change", time_window=_MONTH
    ),
    Aggregation(
        name="account_seconds_since_fraud",
        function="seconds_since_last",
        column="fraud_reported",
        time_window=_MONTH,
    ),
    Aggregation(
        name="account_clean_since_fraud", function="count_since", column="fraud_reported", time_window=_MONTH
    ),
]

account_labels = StreamFeatureView(
    name="account_labels",
    entities=[account],
    source=labels,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    description="Frauds that became known, payments whose outcome became known, time and clean statements since the last fraud",
    tags={"id_column": "label_id", "access": "anonymous"},
)
