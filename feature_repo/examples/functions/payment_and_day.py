"""The day before the payment together with the payment: mean amount, payments far from home.

The scorer imports this module, so it imports no Feast.
"""

from typing import Any

from feature_repo.enrichment import functions as f
from feature_repo.enrichment.lists import as_list, floats


def payment_and_day(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return lists of features, one value per payment, from lists of inputs, null = None."""
    sums = floats(inputs["account_amount_sum_1d"]) + floats(inputs["amount"])
    from_home = f.distance_m(
        *(floats(inputs[c]) for c in ("latitude", "longitude", "home_latitude", "home_longitude"))
    )
    far = floats(inputs["account_far_count_1d"]) + (from_home > f.FAR_M)  # without a place it is not far
    return {
        "account_amount_mean_1d_incl": as_list(sums / (floats(inputs["account_payment_count_1d"]) + 1)),
        "account_far_count_1d_incl": as_list(far),
    }
