"""Merchants: one row per version of a merchant, true from its `event_timestamp` on.

A changelog: every event is the whole row anew, valid until the next version of its merchant. A merchant may be a
person, and has the same pseudonym as when it is the payee of a payment.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from feature_repo.declare.stream import (
    KEY_LENGTH,
    PARTY,
    EventStream,
    between,
    length,
    number,
    one_of,
    text,
    time,
)

RISK_TIERS: Final = ("low", "medium", "high")

MERCHANTS: Final = EventStream(
    name="merchants",
    grain="one row per version of a merchant",
    partition_by="merchant_id",
    changelog=True,
    columns=(
        text(
            "event_id",
            "Identity of the version, unique in its stream; a repeated id is a duplicate",
            checks=[KEY_LENGTH],
        ),
        time("event_timestamp", "From when on this version is true"),
        text("merchant_id", "The merchant", personal=PARTY, checks=[KEY_LENGTH]),
        text("category", "What it sells, such as grocery", null="not known", checks=[length(1, 128)]),
        number(
            "latitude",
            "Where it is, WGS 84, -90 to 90",
            unit="degrees north",
            null="not known, or no place",
            checks=[between(-90, 90)],
        ),
        number(
            "longitude",
            "Where it is, WGS 84, -180 to 180",
            unit="degrees east",
            null="not known, or no place",
            checks=[between(-180, 180)],
        ),
        text("risk_tier", "One of RISK_TIERS", null="not rated", checks=[one_of(RISK_TIERS)]),
        time("opened_at", "Since when it takes payments", null="not known"),
    ),
    feature_names=MappingProxyType(
        {
            "category": "merchant_category",
            "latitude": "merchant_latitude",
            "longitude": "merchant_longitude",
            "risk_tier": "merchant_risk_tier",
            "opened_at": "merchant_opened_at",
        }
    ),
)
