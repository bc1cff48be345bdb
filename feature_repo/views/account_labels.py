"""Frauds of the account that are known so far. One value per account, exact as of the payment.

A label counts from the instant it became known.
"""

from feast import StreamFeatureView

from entities import account
from feature_repo.declare.label_windows import label_windows
from feature_repo.declare.windowed_schema import schema_of
from sources import labels

_aggregations = label_windows("account")

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
