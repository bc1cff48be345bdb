"""Payments: one row per payment, at the instant it happened.

The log keeps a payment with what its customer, its merchant and its charge were known to be when it was accepted, and
with columns derived from the account's past. Both are computed once; from then on they are data.
"""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType
from typing import Final

from feature_repo.declare.stream import (
    KEY_LENGTH,
    PARTY,
    AsOfJoin,
    Derived,
    EventStream,
    between,
    boolean,
    length,
    matches,
    number,
    one_of,
    text,
    time,
)
from feature_repo.enrichment import functions as f
from feature_repo.windows.spec import Aggregate, ViewSpec

TYPES: Final = ("PAYMENT", "TRANSFER", "CASH_OUT", "CASH_IN", "DEBIT")
"""To a merchant; to another account; to cash; from cash or salary into the account; direct debit."""

_CHANNEL_LENGTH: Final = length(0, 128)
_BALANCE: Final = between(-1e15, 1e15, "finite; an overdraft is negative")

_COLUMNS: Final = (
    text(
        "event_id",
        "Identity of the payment, unique in its stream; a repeated id is a duplicate",
        checks=[KEY_LENGTH],
    ),
    time("event_timestamp", "When the payment happened"),
    text("account_id", "Payer (for CASH_IN: the account credited)", personal=PARTY, checks=[KEY_LENGTH]),
    text(
        "merchant_id",
        "Payee: a merchant, or for a TRANSFER the receiving account",
        personal=PARTY,
        checks=[KEY_LENGTH],
    ),
    text("type", "One of TYPES", checks=[one_of(TYPES)]),
    number(
        "amount",
        "How much was moved, >= 0",
        unit="major units of currency",
        checks=[between(0, 1e12, "finite, and not negative: a refund is another type of payment")],
    ),
    text(
        "currency",
        "Currency of the amount and of the balances",
        unit="ISO 4217",
        checks=[
            matches("^[A-Z]{3}$", "ISO 4217"),
            length(3, 3, "Python's $ accepts a final newline, this does not"),
        ],
    ),
    number(
        "account_balance_before",
        "Balance of the payer right before the payment",
        unit="major units of currency",
        null="the source does not know balances",
        checks=[_BALANCE],
    ),
    number(
        "account_balance_after",
        "Balance of the payer right after the payment",
        unit="major units of currency",
        null="the source does not know balances",
        checks=[_BALANCE],
    ),
    number(
        "merchant_balance_before",
        "Balance of the payee right before the payment",
        unit="major units of currency",
        null="the source does not know the payee's balance",
        checks=[_BALANCE],
    ),
    number(
        "merchant_balance_after",
        "Balance of the payee right after the payment",
        unit="major units of currency",
        null="the source does not know the payee's balance",
        checks=[_BALANCE],
    ),
    number(
        "latitude",
        "Where the payment was made, WGS 84, -90 to 90",
        unit="degrees north",
        null="no place known, such as a direct debit",
        checks=[between(-90, 90)],
    ),
    number(
        "longitude",
        "Where the payment was made, WGS 84, -180 to 180",
        unit="degrees east",
        null="no place known, such as a direct debit",
        checks=[between(-180, 180)],
    ),
    text(
        "channel",
        "How it was made: app, web, pos, atm, branch",
        null="the source does not say",
        checks=[_CHANNEL_LENGTH],
    ),
    text(
        "device_id",
        "Card or device it was made with",
        null="no device took part, or unknown",
        checks=[_CHANNEL_LENGTH],
    ),
)

_JOINS: Final = (
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
"""Who pays, who is paid, what was charged. Coordinates of the home are inputs of derived columns and are not logged."""

_NO_CHARGE: Final = "no charge was known when the payment was accepted"
_JOINED: Final = (
    text("customer_segment", "Segment of the payer", null="customer not known"),
    time("customer_opened_at", "When the payer's account was opened", null="customer not known"),
    text("merchant_category", "What the payee sells", null="merchant not known"),
    text("merchant_risk_tier", "Risk tier of the payee", null="merchant not known or not rated"),
    time("merchant_opened_at", "Since when the payee takes payments", null="merchant not known"),
    text("card_network", "Card network of the charge", null=_NO_CHARGE),
    text("entry_mode", "How the card was read", null=_NO_CHARGE),
    text("three_ds_result", "Outcome of 3-D Secure", null=_NO_CHARGE),
    text("issuer_country", "Country of the card's bank", unit="ISO 3166-1 alpha-2", null=_NO_CHARGE),
)

_DAY_US: Final = 86_400_000_000
_HOUR_US: Final = 3_600_000_000
_MONTH_US: Final = 30 * _DAY_US
_GRACE_US: Final = 600_000_000

# The windows derived columns look at: what had been accepted of the same account before this payment. The flow keeps
# them beside the log (`flows.enrich.derive`). A Feast view of the same name, made from the same declaration, keeps
# those a scorer needs online. They are declared here, not in the view: an edit of a view must not change what a column
# of the log means.

ACCOUNT_POSITION: Final = ViewSpec(
    name="account_position",
    join_keys=("account_id",),
    hop_us=0,
    capacity=64,
    grace_us=_GRACE_US,
    aggregates=(
        Aggregate("account_latitude_last", "last", "latitude", _MONTH_US),
        Aggregate("account_longitude_last", "last", "longitude", _MONTH_US),
        Aggregate("account_seconds_since_position", "seconds_since_last", "latitude", _MONTH_US),
    ),
)
"""Where the account last paid, within 30 days."""

ACCOUNT_DEVICE: Final = ViewSpec(
    name="account_device",
    join_keys=("account_id", "device_id"),
    hop_us=0,
    capacity=16,
    grace_us=_GRACE_US,
    aggregates=(Aggregate("device_payment_count_30d", "count", "event_id", _MONTH_US),),
)
"""Whether the account has used the device within 30 days (counts up to 16)."""

ACCOUNT_PAYEE: Final = ViewSpec(
    name="account_payee",
    join_keys=("account_id", "merchant_id"),
    hop_us=0,
    capacity=16,
    grace_us=_GRACE_US,
    aggregates=(Aggregate("payee_payment_count_30d", "count", "event_id", _MONTH_US),),
)
"""Whether the account has paid the payee within 30 days (counts up to 16). Online, see `account_merchant`."""

ACCOUNT_AMOUNTS: Final = ViewSpec(
    name="account_amounts",
    join_keys=("account_id",),
    hop_us=_HOUR_US,
    capacity=1024,
    grace_us=_GRACE_US,
    aggregates=(
        Aggregate("account_amount_count_30d", "count", "amount", _MONTH_US),
        Aggregate("account_amount_median_30d", "median", "amount", _MONTH_US),
        Aggregate("account_amount_p95_30d", "p95", "amount", _MONTH_US),
    ),
)
"""How large the account's payments are: quantiles that a few frauds do not move (whole hours of the last 30 days)."""

_PROGRAM: Final = (
    Derived("home_distance_m", ("latitude", "longitude", "home_latitude", "home_longitude"), f.distance_m),
    Derived("is_far", ("home_distance_m",), f.is_far),
    Derived("local_hour", ("event_timestamp", "home_longitude"), f.local_hour),
    Derived("is_night", ("local_hour",), f.is_night),
    ACCOUNT_POSITION,
    Derived(
        "previous_distance_m",
        ("latitude", "longitude", "account_latitude_last", "account_longitude_last"),
        f.distance_m,
    ),
    Derived("speed_kmh", ("previous_distance_m", "account_seconds_since_position"), f.speed_kmh),
    ACCOUNT_DEVICE,
    Derived("is_new_device", ("device_payment_count_30d",), f.is_new),
    ACCOUNT_PAYEE,
    Derived("is_new_payee", ("payee_payment_count_30d",), f.is_new),
    ACCOUNT_AMOUNTS,
    Derived("is_outsized", ("amount", "account_amount_p95_30d", "account_amount_count_30d"), f.is_outsized),
)

_NO_HOME: Final = "home or place not known"
_NO_PAST: Final = "no earlier payment with a place within 30 days"
_DERIVED: Final = (
    number("home_distance_m", "Geodesic distance from the payer's home", unit="metres", null=_NO_HOME),
    number(
        "previous_distance_m",
        "Geodesic distance from the account's previous payment",
        unit="metres",
        null=_NO_PAST,
    ),
    number(
        "speed_kmh",
        "Speed implied by place and time of the previous payment, at most 100,000",
        unit="km/h",
        null=_NO_PAST,
    ),
    boolean("is_far", "More than 50 km from home", null=_NO_HOME),
    number(
        "local_hour",
        "Hour of the day at the payer's home by the sun, 0 to 23",
        unit="hours",
        null="home not known",
    ),
    boolean("is_night", "Local hour is 22 or later, or before 6", null="home not known"),
    boolean("is_new_device", "The account has not used this device in the last 30 days", null="no device"),
    boolean("is_new_payee", "The account has not paid this payee in the last 30 days"),
    boolean(
        "is_outsized",
        "More than twice the upper quantile (0.95) of the account's amounts of the last 30 days, of five or more",
    ),
)

PAYMENTS: Final = EventStream(
    name="payments",
    grain="one row per payment",
    partition_by="account_id",
    partitioned=True,
    columns=_COLUMNS,
    joins=_JOINS,
    joined=_JOINED,
    program=_PROGRAM,
    derived=_DERIVED,
    derive_by=("account_id",),
)
