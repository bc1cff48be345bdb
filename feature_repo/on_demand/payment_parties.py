"""Payer, payee and charge as numbers a model can read. One value per payment, as known at the payment."""

from feast import Field
from feast.types import Float64, Int64

from feature_repo.declare.on_demand_view import on_demand_view
from on_demand.functions.payment_parties import payment_parties as function
from sources import payment
from views.account_profile import account_profile
from views.charge import charge
from views.merchant_profile import merchant_profile

payment_parties = on_demand_view(
    function,
    sources=[payment, account_profile, merchant_profile, charge],
    schema=[
        Field(name="customer_is_student", dtype=Int64),
        Field(name="customer_is_premium", dtype=Int64),
        Field(name="customer_is_business", dtype=Int64),
        Field(name="customer_age_days", dtype=Float64),
        Field(name="merchant_risk", dtype=Float64),
        Field(name="merchant_age_days", dtype=Float64),
        Field(name="merchant_is_online", dtype=Int64),
        Field(name="charge_is_unread", dtype=Int64),
        Field(name="charge_is_ecommerce", dtype=Int64),
        Field(name="charge_is_unauthenticated", dtype=Int64),
        Field(name="charge_is_foreign", dtype=Int64),
    ],
    description="Segment, ages of account and merchant in days, risk tier (0 low to 2 high), how the card was read and checked",
)
