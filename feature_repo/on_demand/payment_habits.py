"""Whether device and amount fit the account's past. One value per payment, exact as of the payment."""

from feast import Field
from feast.types import Float64

from feature_repo.declare.on_demand_view import on_demand_view
from on_demand.functions.payment_habits import payment_habits as function
from sources import payment
from views.account_amounts import account_amounts
from views.account_device import account_device

payment_habits = on_demand_view(
    function,
    sources=[payment, account_device, account_amounts],
    schema=[
        Field(name="is_new_device", dtype=Float64),
        Field(name="is_outsized", dtype=Float64),
        Field(name="amount_over_account_median_30d", dtype=Float64),
        Field(name="amount_over_account_p95_30d", dtype=Float64),
    ],
    description="New device, outsized amount, amount over median and upper quantile of the account",
)
