"""The payment compared with what went before, and windows that include the payment itself.

The scorer imports this module, so it imports no Feast.
"""

from typing import Any


def payment_in_context(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return lists of features, one value per payment, from lists of inputs, null = None."""
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
