"""Which columns of other streams an event is given before it is logged.

An `AsOfJoin` takes the version of a key that was true at the event's time, as far as it was known when the event was accepted:
of the changelog's rows with `event_timestamp` and `created_timestamp` both at most the event's own, the one with the greatest
(`event_timestamp`, `created_timestamp`). So it is a function of the two logs, and a replay gives the same. An `IdJoin` takes the
columns of the one event with an id, whenever it happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class AsOfJoin:
    """Columns of the changelog `stream`, whose rows are versions of `their_key`, for the event's `key`.

    `columns` maps the changelog's names to the event's. Versions older than `within` do not count (None: all do).
    """

    stream: str
    key: str
    their_key: str
    columns: Mapping[str, str]
    within: timedelta | None = None


@dataclass(frozen=True)
class IdJoin:
    """Columns of the event of `stream` whose id is the event's `key`; what the event says itself is kept.

    Events older than that by far (24 times `within`) need not be remembered.
    """

    stream: str
    key: str
    columns: Mapping[str, str]
    within: timedelta


Join = AsOfJoin | IdJoin

PAYMENT_JOINS: Final = (
    AsOfJoin(
        stream="customers",
        key="account_id",
        their_key="account_id",
        columns=MappingProxyType(
            {
                "segment": "customer_segment",
                "opened_at": "customer_opened_at",
                "home_latitude": "home_latitude",
                "home_longitude": "home_longitude",
            }
        ),
    ),
    AsOfJoin(
        stream="merchants",
        key="merchant_id",
        their_key="merchant_id",
        columns=MappingProxyType(
            {
                "category": "merchant_category",
                "risk_tier": "merchant_risk_tier",
                "opened_at": "merchant_opened_at",
            }
        ),
    ),
    AsOfJoin(
        stream="charges",
        key="event_id",
        their_key="payment_id",
        columns=MappingProxyType(
            {
                "card_network": "card_network",
                "entry_mode": "entry_mode",
                "three_ds_result": "three_ds_result",
                "issuer_country": "issuer_country",
            }
        ),
        within=timedelta(hours=1),
    ),
)
"""Who pays, who is paid, what was charged. Coordinates of the home are used by derived columns and not logged."""

_OF_THE_PAYMENT: Final = MappingProxyType(
    {
        "account_id": "account_id",
        "merchant_id": "merchant_id",
        "event_timestamp": "payment_timestamp",
        "amount": "payment_amount",
    }
)

LABEL_JOINS: Final = (
    IdJoin(stream="payments", key="payment_id", columns=_OF_THE_PAYMENT, within=timedelta(days=8)),
)
"""A label that does not say whose payment it is about is given the keys of the payment."""

CHARGE_JOINS: Final = (
    IdJoin(stream="payments", key="payment_id", columns=_OF_THE_PAYMENT, within=timedelta(hours=1)),
)
"""A charge that comes after its payment is given the payment's keys."""
