"""Rules for when there are no features: three limits on the request's own columns, from the settings. They give no score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.payment import Payment
from serving.settings import ScorerSettings


@dataclass(frozen=True)
class Fallback:
    """Amounts in major units; shares of the payer's balance, where it is known and positive.

    >>> payment = Payment(event_id="p", account_id="a", merchant_id="m", type="TRANSFER", amount=95.0, currency="EUR",
    ...                   account_balance_before=100.0)
    >>> Fallback(review_amount=1000.0, review_balance_share=0.9, decline_amount=None).decide(payment)[0]
    'review'
    """

    review_amount: float
    review_balance_share: float
    decline_amount: float | None

    @classmethod
    def of(cls, settings: ScorerSettings) -> Fallback:
        return cls(
            settings.fallback_review_amount,
            settings.fallback_review_balance_share,
            settings.fallback_decline_amount,
        )

    def decide(self, payment: Payment) -> tuple[str, list[dict[str, Any]]]:
        """The decision, and the rules that spoke, in the shape of `answer.Reason`."""
        if payment.type == "CASH_IN":  # takes nothing from anybody
            return "approve", []
        if self.decline_amount is not None and payment.amount >= self.decline_amount:
            return "decline", [_spoke("amount", payment.amount, self.decline_amount)]
        spoke = []
        if payment.amount >= self.review_amount:
            spoke.append(_spoke("amount", payment.amount, self.review_amount))
        balance = payment.account_balance_before
        if balance is not None and balance > 0 and payment.amount >= self.review_balance_share * balance:
            spoke.append(
                _spoke(
                    "account_balance_before",
                    balance,
                    payment.amount / self.review_balance_share if self.review_balance_share else None,
                )
            )
        return ("review" if spoke else "approve"), spoke


def _spoke(column: str, value: float, limit: float | None) -> dict[str, Any]:
    return {"feature": column, "value": value, "typical": limit, "effect": None}
