"""Whether device and amount fit the account.

The scorer imports this module, so it imports no Feast.
"""

from typing import Any

from feature_repo.enrichment.lists import are_new, are_outsized, ratios


def payment_habits(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return lists of features, one value per payment, from lists of inputs, null = None."""
    amounts, upper = inputs["amount"], inputs["account_amount_p95_30d"]
    return {
        "is_new_device": are_new(inputs["device_payment_count_30d"]),
        "is_outsized": are_outsized(amounts, upper, inputs["account_amount_count_30d"]),
        "amount_over_account_median_30d": ratios(amounts, inputs["account_amount_median_30d"]),
        "amount_over_account_p95_30d": ratios(amounts, upper),
    }
