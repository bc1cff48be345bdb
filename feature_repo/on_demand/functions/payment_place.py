"""Where the payment is made, compared with the home and with the payment before.

The scorer imports this module, so it imports no Feast.
"""

from typing import Any

from feature_repo.enrichment.lists import are_far, are_night, distances_m, local_hours, speeds_kmh


def payment_place(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return lists of features, one value per payment, from lists of inputs, null = None."""
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
