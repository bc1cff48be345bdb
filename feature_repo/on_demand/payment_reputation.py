"""What earlier frauds say about payer and payee. One value per payment: a label counts from the moment it became known, never before."""

from typing import Any

from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from views.account_labels import account_labels
from views.merchant_day import merchant_day
from views.merchant_labels import merchant_labels
from views.merchant_month import merchant_month

_WINDOWS = ("1d", "3d", "7d", "30d")


@on_demand_feature_view(
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
    mode="python",
    description="Frauds among the payments whose outcome is known, the same decayed, and frauds over all payments of the merchant",
)
def payment_reputation(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    from feature_repo.enrichment.lists import ratios

    def share(of: str, among: str) -> list[float | None]:
        frauds = [None if n is None else max(n, 0) for n in inputs[of]]  # more may be withdrawn than reported
        return ratios(frauds, inputs[among])

    return {
        "merchant_fraud_share_1d": share("merchant_fraud_count_1d", "merchant_known_count_1d"),
        "merchant_fraud_share_3d": share("merchant_fraud_count_3d", "merchant_known_count_3d"),
        "merchant_fraud_share_7d": share("merchant_fraud_count_7d", "merchant_known_count_7d"),
        "merchant_fraud_share_30d": share("merchant_fraud_count_30d", "merchant_known_count_30d"),
        "account_fraud_share_1d": share("account_fraud_count_1d", "account_known_count_1d"),
        "account_fraud_share_3d": share("account_fraud_count_3d", "account_known_count_3d"),
        "account_fraud_share_7d": share("account_fraud_count_7d", "account_known_count_7d"),
        "account_fraud_share_30d": share("account_fraud_count_30d", "account_known_count_30d"),
        "merchant_fraud_share_decayed": share("merchant_fraud_decayed_30d", "merchant_known_decayed_30d"),
        "account_fraud_share_decayed": share("account_fraud_decayed_30d", "account_known_decayed_30d"),
        "merchant_fraud_rate_1d": share("merchant_fraud_count_1d", "merchant_payment_count_1d"),
        "merchant_fraud_rate_30d": share("merchant_fraud_count_30d", "merchant_payment_count_30d"),
    }
