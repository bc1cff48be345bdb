"""How far from the recipient's usual and last place the payment is made.

The scorer imports this module, so it imports no Feast.
"""

from typing import Any

from feature_repo.enrichment import functions as f
from feature_repo.enrichment.lists import as_list, floats


def payment_to_recipient(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return lists of features, one value per payment, from lists of inputs, null = None."""
    here = floats(inputs["latitude"]), floats(inputs["longitude"])
    usual = floats(inputs["recipient_latitude_mean_7d"]), floats(inputs["recipient_longitude_mean_7d"])
    last = floats(inputs["recipient_latitude_last"]), floats(inputs["recipient_longitude_last"])
    return {
        "recipient_distance_m": as_list(f.distance_m(*here, *usual)),
        "recipient_last_distance_m": as_list(f.distance_m(*here, *last)),
    }
