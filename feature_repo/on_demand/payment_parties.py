"""Who pays, who is paid, how it was charged, as numbers a model can read. One value per payment, as known at the payment."""

from typing import Any

from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

from sources import payment
from views.account_profile import account_profile
from views.charge import charge
from views.merchant_profile import merchant_profile


@on_demand_feature_view(
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
    mode="python",
    description="Segment, ages of account and merchant in days, risk tier (0 low to 2 high), how the card was read and checked",
)
def payment_parties(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    from feature_repo.enrichment.lists import days_between

    def among(column: str, *values: str) -> list[int | None]:
        return [None if v is None else int(v in values) for v in inputs[column]]

    now = inputs["event_timestamp"]
    tiers = {"low": 0.0, "medium": 1.0, "high": 2.0}
    placed = zip(inputs["merchant_category"], inputs["merchant_latitude"], strict=True)
    return {
        "customer_is_student": among("customer_segment", "student"),
        "customer_is_premium": among("customer_segment", "premium"),
        "customer_is_business": among("customer_segment", "business"),
        "customer_age_days": days_between(inputs["customer_opened_at"], now),
        "merchant_risk": [
            None if tier is None else tiers.get(tier, tiers["medium"])
            for tier in inputs["merchant_risk_tier"]
        ],
        "merchant_age_days": days_between(inputs["merchant_opened_at"], now),
        "merchant_is_online": [None if kind is None else int(at is None) for kind, at in placed],
        "charge_is_unread": among("entry_mode", "manual", "magstripe"),
        "charge_is_ecommerce": among("entry_mode", "ecommerce"),
        "charge_is_unauthenticated": among("three_ds_result", "failed", "attempted", "none"),
        "charge_is_foreign": [None if c is None else int(c != "DE") for c in inputs["issuer_country"]],
    }
