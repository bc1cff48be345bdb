"""The features of DeltaStream's example. One row per payment, exact as of the payment, keyed by the payee.

The example calls the payee the recipient: our `merchant_id`, a merchant or another account. The views are not kept
online (`online=False`): remove that line and apply, and the flow keeps them. See docs/five-systems.md.
"""

from datetime import timedelta

from feast import FeatureService, Field, StreamFeatureView
from feast.aggregation import Aggregation
from feast.types import Float64

from entities import merchant
from examples.functions.payment_to_recipient import payment_to_recipient as function
from feature_repo.declare.on_demand_view import on_demand_view
from feature_repo.declare.windowed_schema import schema_of
from sources import payment, payments
from views.account_profile import account_profile
from views.charge import charge
from views.merchant_recent import merchant_recent

_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)


def _one(name: str, function: str, column: str, span: timedelta) -> Aggregation:
    return Aggregation(name=f"recipient_{name}", function=function, column=column, time_window=span)


_frequency = [
    _one("payment_count_1h", "count", "event_id", timedelta(hours=1)),
    _one("payment_count_1d", "count", "event_id", _DAY),
    _one("payment_count_7d", "count", "event_id", _WEEK),
    _one("payers_unique_1d", "count_distinct", "account_id", _DAY),
    _one("payers_unique_7d", "count_distinct", "account_id", _WEEK),
    _one("seconds_since_last", "seconds_since_last", "event_id", _WEEK),
]
_places = [
    _one("latitude_mean_7d", "mean", "latitude", _WEEK),
    _one("longitude_mean_7d", "mean", "longitude", _WEEK),
    _one("latitude_std_7d", "std", "latitude", _WEEK),
    _one("longitude_std_7d", "std", "longitude", _WEEK),
    _one("latitude_last", "last", "latitude", _WEEK),
    _one("longitude_last", "last", "longitude", _WEEK),
    _one("far_share_7d", "mean", "is_far", _WEEK),
]

recipient_frequency = StreamFeatureView(
    name="recipient_frequency",
    entities=[merchant],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_frequency,
    schema=schema_of(_frequency),
    online=False,
    description="How often and by how many the recipient is paid",
    tags={"access": "anonymous"},
)
recipient_places = StreamFeatureView(
    name="recipient_places",
    entities=[merchant],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_places,
    schema=schema_of(_places),
    online=False,
    description="Where payments to the recipient come from (a mean of longitudes means nothing across the antimeridian)",
    tags={"access": "anonymous"},
)


payment_to_recipient = on_demand_view(
    function,
    sources=[payment, recipient_places],
    schema=[
        Field(name="recipient_distance_m", dtype=Float64),
        Field(name="recipient_last_distance_m", dtype=Float64),
    ],
    description="How far from the recipient's usual and last place the payment is made",
)


deltastream = FeatureService(
    name="deltastream",
    features=[
        account_profile,
        charge,
        merchant_recent,
        recipient_frequency,
        recipient_places,
        payment_to_recipient,
    ],
    description="Who pays without who it is, how it was charged, how often and from where the recipient is paid",
)
