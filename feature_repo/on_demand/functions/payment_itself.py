"""Features of the payment alone: amount, kind, time of day (UTC) and share of the balance.

The scorer imports this module, so it imports no Feast.
"""

from typing import Any


def payment_itself(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return lists of features, one value per payment, from lists of inputs, null = None."""
    hours = [t.hour for t in inputs["event_timestamp"]]
    amounts, balances, kinds = inputs["amount"], inputs["account_balance_before"], inputs["type"]
    return {
        "payment_amount": amounts,
        "payment_is_transfer": [int(kind == "TRANSFER") for kind in kinds],
        "payment_is_cash_out": [int(kind == "CASH_OUT") for kind in kinds],
        "payment_is_cash_in": [int(kind == "CASH_IN") for kind in kinds],
        "payment_is_debit": [int(kind == "DEBIT") for kind in kinds],
        "payment_hour": hours,
        "payment_weekday": [t.weekday() for t in inputs["event_timestamp"]],
        "payment_is_night": [int(hour >= 22 or hour < 6) for hour in hours],
        "payment_balance_share": [a / b if b else None for a, b in zip(amounts, balances, strict=True)],
        "payment_balance_left": [
            None if b is None else b - a for a, b in zip(amounts, balances, strict=True)
        ],
    }
