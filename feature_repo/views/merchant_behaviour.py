"""Who pays the merchant, and how: windows over derived columns. One value per merchant, as of the last full hour."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import merchant
from feature_repo.declare.windowed_schema import schema_of
from sources import payments

_SPAN = timedelta(days=7)

_aggregations = [
    Aggregation(name="merchant_far_share_7d", function="mean", column="is_far", time_window=_SPAN),
    Aggregation(
        name="merchant_new_payee_share_7d", function="mean", column="is_new_payee", time_window=_SPAN
    ),
    Aggregation(name="merchant_outsized_share_7d", function="mean", column="is_outsized", time_window=_SPAN),
]

merchant_behaviour = StreamFeatureView(
    name="merchant_behaviour",
    entities=[merchant],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    enable_tiling=True,
    tiling_hop_size=timedelta(hours=1),
    description="Shares of payments from far away, from first-time payers, and outsized for their payers",
    tags={"access": "anonymous"},
)
