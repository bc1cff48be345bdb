"""The payment held against what went before. One value per payment, exact as of the payment.

`..._incl` features count the payment itself: SQL's RANGE ... CURRENT ROW, derived here because windows never contain it.
"""

from typing import Any

from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

from sources import payment
from views.account_daily import account_daily
from views.account_merchant import account_merchant
from views.account_recent import account_recent
from views.merchant_month import merchant_month


@on_demand_feature_view(
    sources=[payment, account_recent, account_daily, account_merchant, merchant_month],
    schema=[
        Field(name="amount_over_account_mean_1d", dtype=Float64),
        Field(name="amount_over_account_max_1d", dtype=Float64),
        Field(name="amount_over_account_mean_30d", dtype=Float64),
        Field(name="amount_over_account_max_30d", dtype=Float64),
        Field(name="amount_over_daily_max_mean_30d", dtype=Float64),
        Field(name="amount_over_merchant_mean_30d", dtype=Float64),
        Field(name="amount_zscore_1d", dtype=Float64),
        Field(name="payee_is_new", dtype=Int64),
        Field(name="account_payment_count_1h_incl", dtype=Int64),
        Field(name="account_amount_sum_1h_incl", dtype=Float64),
        Field(name="account_amount_mean_1h_incl", dtype=Float64),
        Field(name="account_amount_max_1d_incl", dtype=Float64),
        Field(name="account_count_1d_over_daily_mean", dtype=Float64),
    ],
    mode="python",
    description="Ratios and z-score of the amount, first payment to the payee, windows with the payment itself",
)
def payment_in_context(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    amounts = inputs["amount"]

    def over(column: str) -> list[float | None]:
        return [a / past if past else None for a, past in zip(amounts, inputs[column], strict=True)]

    counts, sums = inputs["account_payment_count_1h"], inputs["account_amount_sum_1h"]
    spread = zip(amounts, inputs["account_amount_mean_1d"], inputs["account_amount_std_1d"], strict=True)
    a_day = zip(inputs["account_payment_count_1d"], inputs["account_daily_count_mean_30d"], strict=True)
    return {
        "amount_over_account_mean_1d": over("account_amount_mean_1d"),
        "amount_over_account_max_1d": over("account_amount_max_1d"),
        "amount_over_account_mean_30d": over("account_amount_mean_30d"),
        "amount_over_account_max_30d": over("account_amount_max_30d"),
        "amount_over_daily_max_mean_30d": over("account_daily_max_mean_30d"),
        "amount_over_merchant_mean_30d": over("merchant_amount_mean_30d"),
        "amount_zscore_1d": [(a - mean) / std if std else None for a, mean, std in spread],
        "payee_is_new": [None if n is None else int(n == 0) for n in inputs["pair_payment_count_30d"]],
        "account_payment_count_1h_incl": [None if n is None else n + 1 for n in counts],
        "account_amount_sum_1h_incl": [
            None if s is None else s + a for a, s in zip(amounts, sums, strict=True)
        ],
        "account_amount_mean_1h_incl": [
            None if n is None else (s + a) / (n + 1) for a, n, s in zip(amounts, counts, sums, strict=True)
        ],
        "account_amount_max_1d_incl": [
            a if m is None else max(a, m)
            for a, m in zip(amounts, inputs["account_amount_max_1d"], strict=True)
        ],
        "account_count_1d_over_daily_mean": [
            n / mean if mean and n is not None else None for n, mean in a_day
        ],
    }
