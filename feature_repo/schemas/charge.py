"""One row per card charge: how the payment `payment_id` was authorised, at the instant of the authorisation (UTC us).

It may arrive before or after its payment. `CHARGE` is what a source hands to the flow, `CHARGE_LOG` what the event log keeps:
the same columns, then those of the payment if it was known by then. Fields are physically nullable for the reasons given
in `feature_repo.schemas.payment`; `REQUIRED` names the columns that are never null.
"""

from typing import Final

import pyarrow as pa

from feature_repo.schemas.payment import EVENT_ID, LOG_COLUMNS, TIMESTAMP, column

CARD_NETWORKS: Final = ("visa", "mastercard", "amex", "other")
ENTRY_MODES: Final = ("chip", "contactless", "magstripe", "ecommerce", "manual")
THREE_DS_RESULTS: Final = ("authenticated", "frictionless", "attempted", "failed", "none")

EVENT_TIMESTAMP: Final = column(
    "event_timestamp", TIMESTAMP, meaning="When the charge was authorised", unit="us since 1970-01-01 UTC"
)
PAYMENT_ID: Final = column("payment_id", pa.string(), meaning="event_id of the payment it belongs to")
CARD_NETWORK: Final = column("card_network", pa.string(), meaning="One of CARD_NETWORKS", null="not known")
ENTRY_MODE: Final = column("entry_mode", pa.string(), meaning="One of ENTRY_MODES", null="not known")
THREE_DS_RESULT: Final = column(
    "three_ds_result",
    pa.string(),
    meaning="Outcome of 3-D Secure, one of THREE_DS_RESULTS",
    null="not known",
)
ISSUER_COUNTRY: Final = column(
    "issuer_country",
    pa.string(),
    meaning="Country of the bank that issued the card",
    unit="ISO 3166-1 alpha-2",
    null="not known",
)

REQUIRED: Final = ("event_id", "event_timestamp", "payment_id")
"""Never null in an accepted row."""

CHARGE: Final = pa.schema(
    [EVENT_ID, EVENT_TIMESTAMP, PAYMENT_ID, CARD_NETWORK, ENTRY_MODE, THREE_DS_RESULT, ISSUER_COUNTRY]
)

JOINED: Final = (
    column("account_id", pa.string(), meaning="Payer of the payment", null="the payment was not logged yet"),
    column("merchant_id", pa.string(), meaning="Payee of the payment", null="the payment was not logged yet"),
    column(
        "payment_timestamp",
        TIMESTAMP,
        meaning="When the payment happened",
        unit="us since 1970-01-01 UTC",
        null="the payment was not logged yet",
    ),
    column(
        "payment_amount",
        pa.float64(),
        meaning="Amount of the payment",
        unit="major units of currency",
        null="the payment was not logged yet",
    ),
)
"""What the flow joins to a charge that comes after its payment; one that comes before is joined to the payment instead."""

CHARGE_LOG: Final = pa.schema([*CHARGE, *JOINED, *LOG_COLUMNS])
