"""Where the payment is made, held against home and the payment before. One value per payment, exact as of the payment.

The columns the flow derives for the log, by the same functions: here for the payment that is not logged yet.
"""

from typing import Any

from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from sources import payment
from views.account_position import account_position
from views.account_profile import account_profile


@on_demand_feature_view(
    sources=[payment, account_profile, account_position],
    schema=[
        Field(name="home_distance_m", dtype=Float64),
        Field(name="is_far", dtype=Float64),
        Field(name="local_hour", dtype=Float64),
        Field(name="is_night", dtype=Float64),
        Field(name="previous_distance_m", dtype=Float64),
        Field(name="speed_kmh", dtype=Float64),
    ],
    mode="python",
    description="Distance from home and from the last payment, implied speed, hour at home",
)
def payment_place(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    from feature_repo.enrichment.lists import are_far, are_night, distances_m, local_hours, speeds_kmh

    here = inputs["latitude"], inputs["longitude"]
    home = distances_m(*here, inputs["home_latitude"], inputs["home_longitude"])
    before = distances_m(*here, inputs["account_latitude_last"], inputs["account_longitude_last"])
    hours = local_hours(inputs["event_timestamp"], inputs["home_longitude"])
    return {
        "home_distance_m": home,
        "is_far": are_far(home),
        "local_hour": hours,
        "is_night": are_night(hours),
        "previous_distance_m": before,
        "speed_kmh": speeds_kmh(before, inputs["account_seconds_since_position"]),
    }
