"""Known earlier frauds of payer and payee. One value per payment; a label counts from when it became known."""

from feast import Field
from feast.types import Float64

from feature_repo.declare.on_demand_view import on_demand_view
from on_demand.functions.payment_reputation import payment_reputation as function
from views.account_labels import account_labels
from views.merchant_day import merchant_day
from views.merchant_labels import merchant_labels
from views.merchant_month import merchant_month

_WINDOWS = ("1d", "3d", "7d", "30d")


payment_reputation = on_demand_view(
    function,
    sources=[merchant_labels, account_labels, merchant_day, merchant_month],
    schema=[
        *(
            Field(name=f"{who}_fraud_share_{w}", dtype=Float64)
            for who in ("merchant", "account")
            for w in _WINDOWS
        ),
        Field(name="merchant_fraud_share_decayed", dtype=Float64),
        Field(name="account_fraud_share_decayed", dtype=Float64),
        Field(name="merchant_fraud_rate_1d", dtype=Float64),
        Field(name="merchant_fraud_rate_30d", dtype=Float64),
    ],
    description="Frauds among the payments whose outcome is known, the same decayed, and frauds over all payments of the merchant",
)
