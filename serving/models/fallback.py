"""Who decides when there are no features: a small model on the payment alone, trained beside the champion, or rules.

The rules are three limits on the request's own columns, from the settings; they give no score. They also decide when the champion
has no such model, or it fails.
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
    """A decision, why (in the shape of `answer.Reason`), the probability of fraud if a model gave one, and by whom."""

    decision: str
    reasons: list[dict[str, Any]]
    score: float | None
    by: Literal["fallback_model", "fallback_rules"]


@dataclass(frozen=True)
class Fallback:
    """Amounts in major units; shares of the payer's balance, where it is known and positive.

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
        return cls(
            settings.fallback_review_amount,
            settings.fallback_review_balance_share,
            settings.fallback_decline_amount,
            settings.fallback,
            settings.reasons,
        )

    def decide(self, model: Model | None, payment: Payment, row: Mapping[str, Any], as_of_us: int) -> Decided:
        """By the champion's fallback model, if it is wanted and there is one, else by the rules; never raises."""
        trees = None if model is None or self.kind == "rules" else model.fallback
        if model is not None and trees is not None:
            try:
                return self._by_model(trees, model.reader.of_request(row, as_of_us))
            except Exception:  # a feature function or the runtime; there are still the rules
                log.exception("fallback.failed", version=model.version)
        return self.rules(payment)

    def problem(self, model: Model | None) -> str:
        """What is missing of what the settings ask for; empty when nothing is."""
        if self.kind == "model" and model is not None and model.fallback is None:
            return "it has no fallback model, though MILLSTREAM_FALLBACK=model asks for one; rules decide instead"
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
        """The decision, and the rules that spoke."""
        if payment.type == "CASH_IN":  # takes nothing from anybody
            return _ruled("approve")
        if self.decline_amount is not None and payment.amount >= self.decline_amount:
            return _ruled("decline", _spoke("amount", payment.amount, self.decline_amount))
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
        return _ruled("review" if spoke else "approve", *spoke)


def _ruled(decision: str, *spoke: dict[str, Any]) -> Decided:
    return Decided(decision, list(spoke), None, "fallback_rules")


def _spoke(column: str, value: float, limit: float | None) -> dict[str, Any]:
    return {"feature": column, "value": value, "typical": limit, "effect": None}
