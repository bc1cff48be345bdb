"""What the payment says about itself. One value per payment; nothing is read from the store."""

from feast import Field
from feast.types import Float64, Int64

from feature_repo.declare.on_demand_view import on_demand_view
from on_demand.functions.payment_itself import payment_itself as function
from sources import payment

payment_itself = on_demand_view(
    function,
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
    description="Amount, kind, time of day (UTC; night is 22 to 6) and share of the payer's balance",
)
