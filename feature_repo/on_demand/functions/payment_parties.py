"""Payer, payee and charge as numbers that a model can read.

The scorer imports this module, so it imports no Feast.
"""

from typing import Any

from feature_repo.enrichment.lists import days_between


def payment_parties(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return lists of features, one value per payment, from lists of inputs, null = None."""

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
