"""Answers of the scorer, for the OpenAPI page. Times are RFC 3339 in UTC; null means unknown."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Decision = Literal["approve", "review", "decline"]

_ANSWER: Final[dict[str, Any]] = {
    "score_id": "6f1d2c7be8c24d0fa4f6f3c1a0b9d1e2",
    "event_id": "p-20241122-000017",
    "score": 0.8731,
    "decision": "review",
    "decided_by": "model",
    "reasons": [
        {"feature": "amount_over_account_max_30d", "value": 9.4, "typical": 0.31, "effect": 2.18},
        {"feature": "payee_is_new", "value": 1, "typical": 0, "effect": 0.77},
    ],
    "model": {"name": "fraud_detection", "version": "20241122T041955Z-29d80730"},
    "as_of": "2024-11-22T04:19:55.123456Z",
    "features_freshness": {
        "newest_event_timestamp": "2024-11-22T04:17:02.000310Z",
        "age_seconds": 173.123146,
    },
    "degraded": False,
    "degraded_reasons": [],
    "incomplete": [],
    "capped": [],
}
_DEGRADED: Final[dict[str, Any]] = {
    **_ANSWER,
    "score": None,
    "decision": "approve",
    "decided_by": "fallback_rules",
    "reasons": [],
    "features_freshness": {"newest_event_timestamp": None, "age_seconds": None},
    "degraded": True,
    "degraded_reasons": [
        {"code": "store_timeout", "detail": "no answer from the online store within 140 ms"}
    ],
}
_MODEL: Final[dict[str, Any]] = {
    "name": "fraud_detection",
    "version": "20241122T041955Z-29d80730",
    "created": "2024-11-22T04:19:55+00:00",
    "service": "fraud_detection_v1",
    "schema_hash": "5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592",
    "features": ["account_payment_count_1h", "payment_amount"],
    "thresholds": {"review": 0.31, "decline": 0.92},
    "metrics": {"average_precision": {"value": 0.81}},
    "data": {"label_delay_days": 3},
}


class Answered(BaseModel):
    """Base class of the answers."""

    model_config = ConfigDict(extra="forbid")


class Reason(Answered):
    """A feature that raises the score, or a rule of the fallback that matched."""

    feature: str = Field(
        description="Feature of the model, or column of the request that a fallback rule checked"
    )
    value: float | None = Field(description="Its value for this payment; null: missing")
    typical: float | None = Field(
        description="Its value in a typical payment, or the limit of a fallback rule; null: missing"
    )
    effect: float | None = Field(
        description="Log-odds it adds: the mean effect of removing it from this payment and of adding only it to a typical one; "
        "null for a fallback rule"
    )


class ModelName(Answered):
    """Which model scored."""

    name: str
    version: str


class Freshness(Answered):
    """The newest known event of this payment's account, merchant and pair."""

    newest_event_timestamp: datetime | None = Field(description="Null: no event of any of them is known")
    age_seconds: float | None = Field(
        description="From that event to the payment; negative if the store knows later ones, which are not used"
    )


class DegradedReason(Answered):
    """Why the fallback decided."""

    code: Literal[
        "store_timeout",
        "store_unreachable",
        "store_slow",
        "store_error",
        "state_mismatch",
        "no_model",
        "deadline",
        "internal",
    ]
    detail: str


class Answer(Answered):
    """The answer to one payment."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_ANSWER, _DEGRADED]})

    score_id: str = Field(description="Identity of this answer in the score log")
    event_id: str = Field(description="Identity of the payment, from the request")
    score: float | None = Field(
        ge=0,
        le=1,
        description="Probability of fraud; null if the rules of the fallback decided",
    )
    decision: Decision = Field(description="By the thresholds of a model, or by the fallback's rules")
    decided_by: Literal["model", "fallback_model", "fallback_rules"] = Field(
        description="`model`; if `degraded`, `fallback_model` (on the payment alone, trained with the model) or `fallback_rules`"
    )
    reasons: list[Reason] = Field(
        description="What raises the score, strongest first; for reviews and declines only"
    )
    model: ModelName | None = Field(
        description="The model in use, also if its fallback or rules decided; null: none is loaded"
    )
    as_of: datetime = Field(description="Features are as of this instant")
    features_freshness: Freshness
    degraded: bool = Field(description="True: the fallback decided, without features")
    degraded_reasons: list[DegradedReason]
    incomplete: list[str] = Field(
        description="Feature views that cannot answer exactly for a payment this old; some of their features are missing"
    )
    capped: list[str] = Field(
        description="Exact feature views that used only the newest events of a very active key"
    )


class BatchAnswer(Answered):
    """The answers to a batch, in the order of its payments."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"answers": [_ANSWER, _DEGRADED]}]}
    )

    answers: list[Answer]


class Thresholds(Answered):
    """Scores from which payments are reviewed, and declined."""

    review: float
    decline: float


class ModelCard(Answered):
    """The loaded model, from its manifest."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_MODEL]})

    name: str
    version: str
    created: str
    service: str = Field(description="Feature service it was trained on")
    schema_hash: str = Field(description="sha256 of the definitions that decide the features' values")
    features: list[str] = Field(description="In the order of the model's input")
    thresholds: Thresholds
    metrics: dict[str, Any] = Field(description="On the held-out last days")
    data: dict[str, Any] = Field(description="Rows and windows it was trained, tuned and tested on")


class Alive(Answered):
    """The process answers."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"status": "alive"}]})

    status: Literal["alive"]


class Check(Answered):
    """One condition of readiness."""

    name: Literal["model", "store", "features"]
    ok: bool
    detail: str


_READY: Final[dict[str, Any]] = {
    "ready": True,
    "checks": [
        {"name": "model", "ok": True, "detail": "fraud_detection 20241122T041955Z-29d80730"},
        {"name": "store", "ok": True, "detail": "127.0.0.1:6379/0 answers in 0.3 ms"},
        {
            "name": "features",
            "ok": True,
            "detail": "64 of the last 64 payments accepted more than 30 s ago are readable",
        },
    ],
}


class Ready(Answered):
    """Whether payments are scored by a model with fresh features, and what is missing if not."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_READY]})

    ready: bool
    checks: list[Check]


class Problem(Answered):
    """Why the request was refused."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"detail": "no model is loaded: there is no champion"}]},
    )

    detail: str
