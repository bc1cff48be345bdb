"""Labels: one row per statement about a payment, as of the instant it became known.

Labels are events of their own: a correction is a later row for the same `payment_id`, nothing is ever rewritten, and
the latest row known at a cut-off wins. A statement that a payment is honest may be the first about it, after a review
for example. A payment without a label is unknown: it has not been reported, which is not the same as being honest.
"""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType
from typing import Final

from feature_repo.declare.stream import (
    KEY_LENGTH,
    PARTY,
    Derived,
    EventStream,
    IdJoin,
    boolean,
    length,
    number,
    one_of,
    text,
    time,
)
from feature_repo.enrichment import functions as f
from feature_repo.windows.spec import Aggregate, ViewSpec

FRAUD_TYPES: Final = ("probe", "spread", "drain")
"""Values of `fraud_type`: a small probe, then the rest of the balance; the whole balance to several accounts within
minutes; the whole balance in one payment to a merchant."""

_MONTH_US: Final = 30 * 86_400_000_000
_UNKNOWN: Final = "the payment is not known"

PAYMENT_STATEMENTS: Final = ViewSpec(
    name="payment_statements",
    join_keys=("payment_id",),
    hop_us=0,
    capacity=16,
    grace_us=_MONTH_US,
    aggregates=(
        Aggregate("statements_before", "count", "label_id", 6 * _MONTH_US),
        Aggregate("last_is_fraud", "last", "is_fraud", 6 * _MONTH_US),
    ),
    id_column="label_id",
)
"""What was last said about a payment."""

LABELS: Final = EventStream(
    name="labels",
    grain="one row per label",
    id_column="label_id",
    partition_by="payment_id",
    labels="payments",
    columns=(
        text(
            "label_id",
            "{payment_id}:{event_timestamp as epoch us}; unique in its stream",
            checks=[length(1, 160)],
        ),
        time("event_timestamp", "When the statement became known, hours to days after the payment"),
        text("payment_id", "event_id of the payment it is about", checks=[KEY_LENGTH]),
        boolean(
            "is_fraud",
            "True: reported as fraud; false: looked at and found honest, or an earlier report was wrong",
        ),
        text(
            "fraud_type",
            "One of FRAUD_TYPES",
            null="is_fraud is false, or the kind is not known",
            checks=[one_of(FRAUD_TYPES)],
        ),
        text("labeler", "Who says so: chargeback, customer, analyst, ...", checks=[KEY_LENGTH]),
        text(
            "account_id",
            "Payer of the payment; a label without it is given the payment's when it is accepted",
            null=_UNKNOWN,
            personal=PARTY,
            checks=[length(1, 128)],
        ),
        text(
            "merchant_id",
            "Payee of the payment; a label without it is given the payment's when it is accepted",
            null=_UNKNOWN,
            personal=PARTY,
            checks=[length(1, 128)],
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
            within=timedelta(days=8),
        ),
    ),
    joined=(
        time("payment_timestamp", "When the payment happened", null=_UNKNOWN),
        number("payment_amount", "Amount of the payment", unit="major units of currency", null=_UNKNOWN),
    ),
    program=(
        PAYMENT_STATEMENTS,
        Derived("fraud_change", ("is_fraud", "last_is_fraud"), f.fraud_change),
        Derived("known_change", ("statements_before",), f.known_change),
        Derived("fraud_reported", ("fraud_change",), f.fraud_reported),
    ),
    derived=(
        number(
            "fraud_change",
            "What the statement changes in the number of known frauds: 1, -1 (a report withdrawn) or 0",
        ),
        number("known_change", "1 for the first statement about a payment, else 0"),
        number("fraud_reported", "1 where the payment became a known fraud", null="it did not"),
    ),
    derive_by=("payment_id",),
)
