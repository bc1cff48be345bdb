"""Bodies of requests: payments in the columns of `feature_repo.streams.payments`, checked as the flow checks them.

Strict: a string is not a number, unknown fields are errors, NaN and infinity are not amounts. So every payment that is
scored here would also be accepted by the flow.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_PAYMENTS: Final = 1000
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = EARLIEST + timedelta(microseconds=9_214_646_400_000_000)
"""The end of pandas' (and Feast's) 64-bit nanoseconds."""

EXAMPLE: Final[dict[str, Any]] = {
    "event_id": "p-20241122-000017",
    "event_timestamp": "2024-11-22T04:19:55.123456Z",
    "account_id": "a-000042",
    "merchant_id": "m-0007",
    "type": "PAYMENT",
    "amount": 129.9,
    "currency": "EUR",
    "account_balance_before": 2310.5,
    "latitude": 48.14,
    "longitude": 11.58,
    "channel": "app",
    "device_id": "d-8812",
}
SMALLEST: Final[dict[str, Any]] = {
    k: EXAMPLE[k] for k in ("event_id", "account_id", "merchant_id", "type", "amount", "currency")
}


def _in_range(when: datetime) -> datetime:
    if not EARLIEST <= when < LATEST:
        raise PydanticCustomError("datetime_range", "Input should be between 1970 and 2262")
    return when


Name = Annotated[str, Field(min_length=1, max_length=128)]
Note = Annotated[str, Field(max_length=128)]
Balance = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]


class Payment(BaseModel):
    """One payment to score. The answer is the same before and after it is published to the bus."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"examples": [EXAMPLE, SMALLEST]},
    )

    event_id: Name = Field(description="Identity of the payment")
    event_timestamp: Annotated[AwareDatetime, AfterValidator(_in_range)] | None = Field(
        default=None,
        description="When it happened, RFC 3339 with a time zone; its features are as of this instant. "
        "Left out: the scorer's clock when the request arrives",
    )
    account_id: Name = Field(description="Payer")
    merchant_id: Name = Field(description="Payee: a merchant, or the receiving account of a TRANSFER")
    type: Literal["PAYMENT", "TRANSFER", "CASH_OUT", "CASH_IN", "DEBIT"] = Field(
        description="Kind of payment"
    )
    amount: float = Field(
        ge=0, le=1e12, allow_inf_nan=False, description="How much is moved, in major units of the currency"
    )
    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code")
    account_balance_before: Balance | None = Field(default=None, description="Payer's balance before")
    account_balance_after: Balance | None = Field(default=None, description="Payer's balance after")
    merchant_balance_before: Balance | None = Field(default=None, description="Payee's balance before")
    merchant_balance_after: Balance | None = Field(default=None, description="Payee's balance after")
    latitude: float | None = Field(
        default=None, ge=-90, le=90, allow_inf_nan=False, description="Degrees north, WGS 84"
    )
    longitude: float | None = Field(
        default=None, ge=-180, le=180, allow_inf_nan=False, description="Degrees east, WGS 84"
    )
    channel: Note | None = Field(default=None, description="How it is made: app, web, pos, atm, branch")
    device_id: Note | None = Field(default=None, description="Card or device it is made with")


class Batch(BaseModel):
    """Up to 1,000 payments, each scored as of its own time; they do not see each other."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={
            "examples": [
                {"payments": [EXAMPLE, {**SMALLEST, "event_id": "p-20241122-000018", "amount": 3.5}]}
            ]
        },
    )

    payments: list[Payment] = Field(
        min_length=1, max_length=MAX_PAYMENTS, description="Answered in this order"
    )
