"""The decision without features: by a small model on the payment alone, trained with the champion, or by rules.

The rules are three limits on the request's columns, from the settings; they give no score. They also decide if the
champion has no such model, or if it fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import structlog

from serving.api.requests import Payment
from serving.models.model import Model
from serving.models.onnx_trees import Trees
from serving.models.reasons import explain
from serving.settings import ScorerSettings

log = structlog.get_logger(__name__)


class Decided(NamedTuple):
    """A decision, its reasons (`responses.Reason`), the probability of fraud (None by rules), and what decided."""

    decision: str
    reasons: list[dict[str, Any]]
    score: float | None
    by: Literal["fallback_model", "fallback_rules"]


@dataclass(frozen=True)
class Fallback:
    """Limits of the rules: amounts in major units, and a share of the payer's balance if that is known and positive.

    >>> payment = Payment(event_id="p", account_id="a", merchant_id="m", type="TRANSFER", amount=95.0, currency="EUR",
    ...                   account_balance_before=100.0)
    >>> Fallback(review_amount=1000.0, review_balance_share=0.9, decline_amount=None).rules(payment).decision
    'review'
    """

    review_amount: float
    review_balance_share: float
    decline_amount: float | None
    kind: Literal["rules", "model", "auto"] = "auto"
    max_reasons: int = 5

    @classmethod
    def of(cls, settings: ScorerSettings) -> Fallback:
        """Read the limits from the settings."""
        return cls(
            settings.fallback_review_amount,
            settings.fallback_review_balance_share,
            settings.fallback_decline_amount,
            settings.fallback,
            settings.reasons,
        )

    def decide(self, model: Model | None, payment: Payment, row: Mapping[str, Any], as_of_us: int) -> Decided:
        """Decide by the champion's fallback model if it has one and the settings allow it, else by rules; never raises.

        `row` has the request's columns; `as_of_us` is int64 UTC us.
        """
        trees = None if model is None or self.kind == "rules" else model.fallback
        if model is not None and trees is not None:
            try:
                return self._by_model(trees, model.reader.of_request(row, as_of_us))
            except Exception:  # a feature function or the runtime; the rules decide
                log.exception("fallback.failed", version=model.version)
        return self.rules(payment)

    def problem(self, model: Model | None) -> str:
        """Return what the settings ask for and the model lacks; empty if nothing."""
        if self.kind == "model" and model is not None and model.fallback is None:
            return (
                "it has no fallback model, but MILLSTREAM_FALLBACK=model asks for one; rules decide instead"
            )
        return ""

    def _by_model(self, trees: Trees, named: Mapping[str, Any]) -> Decided:
        values = (named[name] for name in trees.features)
        vector = np.array([np.nan if value is None else value for value in values], np.float64)
        score = float(trees.predict(vector[None])[0])
        if not 0 <= score <= 1:
            raise ValueError(f"the fallback model gave {score}")
        decision = trees.decide(score)
        with np.errstate(over="ignore"):
            asked = vector.astype(np.float32)
        reasons = [] if decision == "approve" else explain(trees, asked, self.max_reasons)
        return Decided(decision, reasons, score, "fallback_model")

    def rules(self, payment: Payment) -> Decided:
        """Decide by the rules; the reasons are the rules that matched."""
        if payment.type == "CASH_IN":  # takes no money from the payer
            return _by_rules("approve")
        if self.decline_amount is not None and payment.amount >= self.decline_amount:
            return _by_rules("decline", _matched("amount", payment.amount, self.decline_amount))
        matched = []
        if payment.amount >= self.review_amount:
            matched.append(_matched("amount", payment.amount, self.review_amount))
        balance = payment.account_balance_before
        if balance is not None and balance > 0 and payment.amount >= self.review_balance_share * balance:
            matched.append(
                _matched(
                    "account_balance_before",
                    balance,
                    payment.amount / self.review_balance_share if self.review_balance_share else None,
                )
            )
        return _by_rules("review" if matched else "approve", *matched)


def _by_rules(decision: str, *matched: dict[str, Any]) -> Decided:
    return Decided(decision, list(matched), None, "fallback_rules")


def _matched(column: str, value: float, limit: float | None) -> dict[str, Any]:
    return {"feature": column, "value": value, "typical": limit, "effect": None}
