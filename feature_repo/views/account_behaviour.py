"""How the account behaves: windows over derived columns. One value per account, exact as of the payment."""

from datetime import timedelta

from feast import StreamFeatureView
from feast.aggregation import Aggregation

from entities import account
from feature_repo.declare.windowed_schema import schema_of
from sources import payments

_DAY = timedelta(days=1)

_aggregations = [
    Aggregation(name="account_far_count_1d", function="sum", column="is_far", time_window=_DAY),
    Aggregation(name="account_far_count_7d", function="sum", column="is_far", time_window=7 * _DAY),
    Aggregation(name="account_night_count_7d", function="sum", column="is_night", time_window=7 * _DAY),
    Aggregation(
        name="account_new_device_count_7d", function="sum", column="is_new_device", time_window=7 * _DAY
    ),
    Aggregation(name="account_new_payee_count_1d", function="sum", column="is_new_payee", time_window=_DAY),
    Aggregation(
        name="account_new_payee_count_7d", function="sum", column="is_new_payee", time_window=7 * _DAY
    ),
    Aggregation(name="account_outsized_count_3d", function="sum", column="is_outsized", time_window=3 * _DAY),
    Aggregation(name="account_outsized_count_7d", function="sum", column="is_outsized", time_window=7 * _DAY),
    Aggregation(
        name="account_outsized_count_14d", function="sum", column="is_outsized", time_window=14 * _DAY
    ),
    Aggregation(name="account_speed_max_1d", function="max", column="speed_kmh", time_window=_DAY),
    Aggregation(
        name="account_home_distance_max_1d", function="max", column="home_distance_m", time_window=_DAY
    ),
    Aggregation(
        name="account_home_distance_mean_7d", function="mean", column="home_distance_m", time_window=7 * _DAY
    ),
]

account_behaviour = StreamFeatureView(
    name="account_behaviour",
    entities=[account],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_aggregations,
    schema=schema_of(_aggregations),
    description="Far from home, at night, new devices and payees, outsized amounts",
    tags={"access": "anonymous"},
)
