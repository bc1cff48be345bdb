"""One row per payment, at the instant it happened (`event_timestamp`, UTC microseconds).

`PAYMENT` is what a source hands to the flow; `PAYMENT_LOG` is what the event log keeps: the same columns, those
the flow joins and derives (`JOINED`, `DERIVED`), then when and from where the row was accepted. Column order is part of the schema.

Every Arrow field is physically nullable, also the ones that are never null. Arrow counts the flag as part
of a type, so a column rebuilt by any compute function would no longer match its own schema; and a row that
breaks the rule must be able to travel as far as the check that dead-letters it. `REQUIRED` names the
columns that check insists on.
"""

from typing import Final

import pyarrow as pa

from feature_repo.privacy.policy import PSEUDONYM

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

TYPES: Final = ("PAYMENT", "TRANSFER", "CASH_OUT", "CASH_IN", "DEBIT")
"""To a merchant; to another account; to cash; from cash or salary into the account; direct debit."""


def column(name: str, kind: pa.DataType, *, meaning: str, unit: str = "", null: str = "never") -> pa.Field:
    """Make an Arrow field that carries its own documentation (`field.metadata`: meaning, unit, null)."""
    return pa.field(name, kind, metadata={"meaning": meaning, "unit": unit, "null": null})


EVENT_ID: Final = column(
    "event_id",
    pa.string(),
    meaning="Identity of the payment, unique in its stream; a repeated id is a duplicate",
)
EVENT_TIMESTAMP: Final = column(
    "event_timestamp", TIMESTAMP, meaning="When the payment happened", unit="us since 1970-01-01 UTC"
)
ACCOUNT_ID: Final = column("account_id", pa.string(), meaning="Payer (for CASH_IN: the account credited)")
MERCHANT_ID: Final = column(
    "merchant_id", pa.string(), meaning="Payee: a merchant, or for a TRANSFER the receiving account"
)
TYPE: Final = column("type", pa.string(), meaning="One of TYPES")
AMOUNT: Final = column(
    "amount", pa.float64(), meaning="How much was moved, >= 0", unit="major units of currency"
)
CURRENCY: Final = column(
    "currency", pa.string(), meaning="Currency of the amount and of the balances", unit="ISO 4217"
)
ACCOUNT_BALANCE_BEFORE: Final = column(
    "account_balance_before",
    pa.float64(),
    meaning="Balance of the payer right before the payment",
    unit="major units of currency",
    null="the source does not know balances",
)
ACCOUNT_BALANCE_AFTER: Final = column(
    "account_balance_after",
    pa.float64(),
    meaning="Balance of the payer right after the payment",
    unit="major units of currency",
    null="the source does not know balances",
)
MERCHANT_BALANCE_BEFORE: Final = column(
    "merchant_balance_before",
    pa.float64(),
    meaning="Balance of the payee right before the payment",
    unit="major units of currency",
    null="the source does not know the payee's balance",
)
MERCHANT_BALANCE_AFTER: Final = column(
    "merchant_balance_after",
    pa.float64(),
    meaning="Balance of the payee right after the payment",
    unit="major units of currency",
    null="the source does not know the payee's balance",
)
LATITUDE: Final = column(
    "latitude",
    pa.float64(),
    meaning="Where the payment was made, WGS 84, -90 to 90",
    unit="degrees north",
    null="no place known, such as a direct debit",
)
LONGITUDE: Final = column(
    "longitude",
    pa.float64(),
    meaning="Where the payment was made, WGS 84, -180 to 180",
    unit="degrees east",
    null="no place known, such as a direct debit",
)
CHANNEL: Final = column(
    "channel",
    pa.string(),
    meaning="How it was made: app, web, pos, atm, branch",
    null="the source does not say",
)
DEVICE_ID: Final = column(
    "device_id",
    pa.string(),
    meaning="Card or device it was made with",
    null="no device took part, or unknown",
)

PERSONAL: Final = {"account_id": PSEUDONYM, "merchant_id": PSEUDONYM}
"""What becomes of personal columns where a payment comes in; a payee may be an account."""

REQUIRED: Final = ("event_id", "event_timestamp", "account_id", "merchant_id", "type", "amount", "currency")
"""Never null in an accepted payment."""

PAYMENT: Final = pa.schema(
    [
        EVENT_ID,
        EVENT_TIMESTAMP,
        ACCOUNT_ID,
        MERCHANT_ID,
        TYPE,
        AMOUNT,
        CURRENCY,
        ACCOUNT_BALANCE_BEFORE,
        ACCOUNT_BALANCE_AFTER,
        MERCHANT_BALANCE_BEFORE,
        MERCHANT_BALANCE_AFTER,
        LATITUDE,
        LONGITUDE,
        CHANNEL,
        DEVICE_ID,
    ]
)

CREATED_TIMESTAMP: Final = column(
    "created_timestamp",
    TIMESTAMP,
    meaning="When the event was accepted: by the bus, or as its file states; the same again after a replay",
    unit="us since 1970-01-01 UTC",
)
SOURCE_PARTITION: Final = column(
    "source_partition",
    pa.string(),
    meaning="Where the event came in, such as bus:payments:0 or file:history.parquet",
)
SOURCE_OFFSET: Final = column(
    "source_offset",
    pa.int64(),
    meaning="Place in that partition, strictly increasing: (ms << 20) | seq on the bus, row number in a file",
)

LOG_COLUMNS: Final = (CREATED_TIMESTAMP, SOURCE_PARTITION, SOURCE_OFFSET)
"""What the log adds to any event, after the event's own columns."""


CUSTOMER_SEGMENT: Final = column(
    "customer_segment", pa.string(), meaning="Segment of the payer", null="customer not known"
)
CUSTOMER_OPENED_AT: Final = column(
    "customer_opened_at",
    TIMESTAMP,
    meaning="When the payer's account was opened",
    unit="us since 1970-01-01 UTC",
    null="customer not known",
)
MERCHANT_CATEGORY: Final = column(
    "merchant_category", pa.string(), meaning="What the payee sells", null="merchant not known"
)
MERCHANT_RISK_TIER: Final = column(
    "merchant_risk_tier",
    pa.string(),
    meaning="Risk tier of the payee",
    null="merchant not known or not rated",
)
MERCHANT_OPENED_AT: Final = column(
    "merchant_opened_at",
    TIMESTAMP,
    meaning="Since when the payee takes payments",
    unit="us since 1970-01-01 UTC",
    null="merchant not known",
)
_CHARGES: Final = "no charge was known when the payment was accepted"
CARD_NETWORK: Final = column("card_network", pa.string(), meaning="Card network of the charge", null=_CHARGES)
ENTRY_MODE: Final = column("entry_mode", pa.string(), meaning="How the card was read", null=_CHARGES)
THREE_DS_RESULT: Final = column(
    "three_ds_result", pa.string(), meaning="Outcome of 3-D Secure", null=_CHARGES
)
ISSUER_COUNTRY: Final = column(
    "issuer_country",
    pa.string(),
    meaning="Country of the card's bank",
    unit="ISO 3166-1 alpha-2",
    null=_CHARGES,
)

JOINED: Final = (
    CUSTOMER_SEGMENT,
    CUSTOMER_OPENED_AT,
    MERCHANT_CATEGORY,
    MERCHANT_RISK_TIER,
    MERCHANT_OPENED_AT,
    CARD_NETWORK,
    ENTRY_MODE,
    THREE_DS_RESULT,
    ISSUER_COUNTRY,
)
"""What the flow joins to a payment, as of the payment and as known when it was accepted; see `feature_repo.enrichment`."""

_NO_HOME: Final = "home or place not known"
_NO_PAST: Final = "no earlier payment with a place within 30 days"
DERIVED: Final = (
    column(
        "home_distance_m",
        pa.float64(),
        meaning="Geodesic distance from the payer's home",
        unit="metres",
        null=_NO_HOME,
    ),
    column(
        "previous_distance_m",
        pa.float64(),
        meaning="Geodesic distance from the account's previous payment",
        unit="metres",
        null=_NO_PAST,
    ),
    column(
        "speed_kmh",
        pa.float64(),
        meaning="Speed implied by place and time of the previous payment, at most 100,000",
        unit="km/h",
        null=_NO_PAST,
    ),
    column("is_far", pa.bool_(), meaning="More than 50 km from home", null=_NO_HOME),
    column(
        "local_hour",
        pa.float64(),
        meaning="Hour of the day by the sun at the payer's home, 0 to 23",
        unit="hours",
        null="home not known",
    ),
    column("is_night", pa.bool_(), meaning="Local hour is 22 or later, or before 6", null="home not known"),
    column(
        "is_new_device",
        pa.bool_(),
        meaning="The account has not used this device in the last 30 days",
        null="no device",
    ),
    column(
        "is_new_payee",
        pa.bool_(),
        meaning="The account has not paid this payee in the last 30 days",
        null="never",
    ),
    column(
        "is_outsized",
        pa.bool_(),
        meaning="More than twice the upper quantile (0.95) of the account's amounts of the last 30 days, of five or more",
    ),
)
"""Computed once, when the payment is accepted; from then on they are data. See `feature_repo.enrichment`."""

PAYMENT_LOG: Final = pa.schema([*PAYMENT, *JOINED, *DERIVED, *LOG_COLUMNS])
