"""Charges: one row per card charge, which says how the payment `payment_id` was authorised.

A charge may arrive before or after its payment. One that comes before is joined to the payment; one that comes after
is given the keys of the payment.
"""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType
from typing import Final

from feature_repo.declare.stream import (
    KEY_LENGTH,
    PARTY,
    EventStream,
    IdJoin,
    length,
    matches,
    number,
    one_of,
    text,
    time,
)

CARD_NETWORKS: Final = ("visa", "mastercard", "amex", "other")
ENTRY_MODES: Final = ("chip", "contactless", "magstripe", "ecommerce", "manual")
THREE_DS_RESULTS: Final = ("authenticated", "frictionless", "attempted", "failed", "none")
_NOT_LOGGED: Final = "the payment was not logged yet"

CHARGES: Final = EventStream(
    name="charges",
    grain="one row per card charge",
    partition_by="payment_id",
    columns=(
        text(
            "event_id",
            "Identity of the charge, unique in its stream; a repeated id is a duplicate",
            checks=[KEY_LENGTH],
        ),
        time("event_timestamp", "When the charge was authorised"),
        text("payment_id", "event_id of the payment it belongs to", checks=[KEY_LENGTH]),
        text("card_network", "One of CARD_NETWORKS", null="not known", checks=[one_of(CARD_NETWORKS)]),
        text("entry_mode", "One of ENTRY_MODES", null="not known", checks=[one_of(ENTRY_MODES)]),
        text(
            "three_ds_result",
            "Outcome of 3-D Secure, one of THREE_DS_RESULTS",
            null="not known",
            checks=[one_of(THREE_DS_RESULTS)],
        ),
        text(
            "issuer_country",
            "Country of the bank that issued the card",
            unit="ISO 3166-1 alpha-2",
            null="not known",
            checks=[
                matches("^[A-Z]{2}$", "ISO 3166-1 alpha-2"),
                length(2, 2, "Python's $ accepts a final newline, this does not"),
            ],
        ),
    ),
    joins=(
        IdJoin(
            stream="payments",
            key="payment_id",
            columns=MappingProxyType(
                {
                    "account_id": "account_id",
                    "merchant_id": "merchant_id",
                    "event_timestamp": "payment_timestamp",
                    "amount": "payment_amount",
                }
            ),
            within=timedelta(hours=1),
        ),
    ),
    joined=(
        text("account_id", "Payer of the payment", null=_NOT_LOGGED, personal=PARTY),
        text("merchant_id", "Payee of the payment", null=_NOT_LOGGED, personal=PARTY),
        time("payment_timestamp", "When the payment happened", null=_NOT_LOGGED),
        number("payment_amount", "Amount of the payment", unit="major units of currency", null=_NOT_LOGGED),
    ),
)
