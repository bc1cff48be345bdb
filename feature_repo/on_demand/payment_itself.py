"""What the payment says about itself. One value per payment; nothing is read from the store."""

from typing import Any

from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

from sources import payment


@on_demand_feature_view(
    sources=[payment],
    schema=[
        Field(name="payment_amount", dtype=Float64),
        Field(name="payment_is_transfer", dtype=Int64),
        Field(name="payment_is_cash_out", dtype=Int64),
        Field(name="payment_is_cash_in", dtype=Int64),
        Field(name="payment_is_debit", dtype=Int64),
        Field(name="payment_hour", dtype=Int64),
        Field(name="payment_weekday", dtype=Int64),
        Field(name="payment_is_night", dtype=Int64),
        Field(name="payment_balance_share", dtype=Float64),
        Field(name="payment_balance_left", dtype=Float64),
    ],
    mode="python",
    description="Amount, kind, time of day (UTC; night is 22 to 6) and share of the payer's balance",
)
def payment_itself(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
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
