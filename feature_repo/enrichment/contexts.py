"""The windows derived columns look at: what had been accepted of the same account (or payment) before this event.

The flow keeps them beside the log (`flows.enrich.derive`); a Feast view of the same name, made from the same declaration, keeps
those a scorer needs on line. They are fixed here and not by whoever edits a view: what a column of the log means must not change
with it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from feature_repo.windows.spec import Aggregate, ViewSpec

_DAY_US: Final = 86_400_000_000
_HOUR_US: Final = 3_600_000_000
_MONTH_US: Final = 30 * _DAY_US
_GRACE_US: Final = 600_000_000

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
"""Whether the account has paid the payee within 30 days (counts up to 16); on line `account_merchant` knows it."""

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

PAYMENT_STATEMENTS: Final = ViewSpec(
    name="payment_statements",
    join_keys=("payment_id",),
    hop_us=0,
    capacity=16,
    grace_us=timedelta(days=30) // timedelta(microseconds=1),
    aggregates=(
        Aggregate("statements_before", "count", "label_id", 6 * _MONTH_US),
        Aggregate("last_is_fraud", "last", "is_fraud", 6 * _MONTH_US),
    ),
    id_column="label_id",
)
"""What was last said about a payment."""
