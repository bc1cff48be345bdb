"""Merchant type as a number; amounts and distances in standard deviations from a running mean.

The scorer imports this module, so it imports no Feast.
"""

from typing import Any

from feature_repo.enrichment import functions as f
from feature_repo.enrichment.lists import as_list, floats


def payment_normalised(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return lists of features, one value per payment, from lists of inputs, null = None."""

    def normalised(values: f.Floats, by: str) -> list[float | None]:
        mean, std = floats(inputs[f"{by}_running_mean"]), floats(inputs[f"{by}_running_std"])
        return as_list(f.ratio(values - mean, std))

    def before(of: str, by: str) -> list[float | None]:
        return normalised(floats(inputs[of]), by)

    kinds = (
        "pharmacy", "grocery", "bakery", "restaurant", "digital", "fuel", "books", "fashion", "gambling", "furniture",
        "electronics", "travel", "jewellery",
    )  # fmt: skip
    codes = {name: number for number, name in enumerate(kinds, start=1)}
    from_home = f.distance_m(
        *(floats(inputs[c]) for c in ("latitude", "longitude", "home_latitude", "home_longitude"))
    )
    return {
        "merchant_type_code": [codes.get(name, 0) for name in inputs["merchant_type"]],
        "amount_in_category": normalised(floats(inputs["amount"]), "category_amount"),
        "amount_in_account": normalised(floats(inputs["amount"]), "account_amount"),
        "distance_in_account": normalised(from_home, "account_distance"),
        "previous_amount_1_in_account": before("account_amount_last", "account_amount"),
        "previous_amount_2_in_account": before("account_amount_last_2", "account_amount"),
        "previous_amount_3_in_account": before("account_amount_last_3", "account_amount"),
        "previous_distance_1_in_account": before("account_home_distance_last", "account_distance"),
        "previous_distance_2_in_account": before("account_home_distance_last_2", "account_distance"),
        "previous_distance_3_in_account": before("account_home_distance_last_3", "account_distance"),
    }
