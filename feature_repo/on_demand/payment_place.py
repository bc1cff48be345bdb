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
    from feature_repo.enrichment import functions as f
    from feature_repo.enrichment.lists import as_list, as_us, floats

    latitude, longitude = inputs["latitude"], inputs["longitude"]
    home_longitude = floats(inputs["home_longitude"])
    home, before = f.distance_m(
        floats(latitude, latitude),
        floats(longitude, longitude),
        floats(inputs["home_latitude"], inputs["account_latitude_last"]),
        floats(inputs["home_longitude"], inputs["account_longitude_last"]),
    )
    hour = f.local_hour(as_us(inputs["event_timestamp"]), home_longitude)
    return {
        "home_distance_m": as_list(home),
        "is_far": as_list(f.is_far(home)),
        "local_hour": as_list(hour),
        "is_night": as_list(f.is_night(hour)),
        "previous_distance_m": as_list(before),
        "speed_kmh": as_list(f.speed_kmh(before, floats(inputs["account_seconds_since_position"]))),
    }
