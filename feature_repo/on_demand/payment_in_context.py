"""The payment held against what went before. One value per payment, exact as of the payment.

`..._incl` features count the payment itself: SQL's RANGE ... CURRENT ROW, derived here because windows never contain
it.
"""

from feast import Field
from feast.types import Float64, Int64

from feature_repo.declare.on_demand_view import on_demand_view
from on_demand.functions.payment_in_context import payment_in_context as function
from sources import payment
from views.account_daily import account_daily
from views.account_merchant import account_merchant
from views.account_recent import account_recent
from views.merchant_month import merchant_month

payment_in_context = on_demand_view(
    function,
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
    description="Ratios and z-score of the amount, first payment to the payee, windows with the payment itself",
)
