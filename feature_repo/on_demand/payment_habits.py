"""Whether the payment fits the account: device, amount. One value per payment, exact as of the payment; the payment itself is in no quantile."""

from typing import Any

from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from sources import payment
from views.account_amounts import account_amounts
from views.account_device import account_device


@on_demand_feature_view(
    sources=[payment, account_device, account_amounts],
    schema=[
        Field(name="is_new_device", dtype=Float64),
        Field(name="is_outsized", dtype=Float64),
        Field(name="amount_over_account_median_30d", dtype=Float64),
        Field(name="amount_over_account_p95_30d", dtype=Float64),
    ],
    mode="python",
    description="New device, outsized amount, amount over median and upper quantile of the account",
)
def payment_habits(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    from feature_repo.enrichment.lists import are_new, are_outsized, ratios

    amounts, upper = inputs["amount"], inputs["account_amount_p95_30d"]
    return {
        "is_new_device": are_new(inputs["device_payment_count_30d"]),
        "is_outsized": are_outsized(amounts, upper, inputs["account_amount_count_30d"]),
        "amount_over_account_median_30d": ratios(amounts, inputs["account_amount_median_30d"]),
        "amount_over_account_p95_30d": ratios(amounts, upper),
    }
