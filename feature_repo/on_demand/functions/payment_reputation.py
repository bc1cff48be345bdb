"""Shares of frauds among the earlier payments of payer and payee.

The scorer imports this module, so it imports no Feast.
"""

from typing import Any

from feature_repo.enrichment.lists import ratios


def payment_reputation(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return lists of features, one value per payment, from lists of inputs, null = None."""

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
