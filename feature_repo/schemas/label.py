"""One row per statement about a payment, as of the instant it became known (`event_timestamp`, UTC us).

Labels are events of their own: a correction is a later row for the same `payment_id`, nothing is ever
rewritten, and the latest row known at a cut-off wins. A statement that a payment is honest may be the first
about it: somebody has looked (a review, say, of what seemed suspicious). A payment without a label is not known:
it has not been reported, which is not the same as being honest.

`LABEL` is what a source hands to the flow, `LABEL_LOG` what the event log keeps. Fields are physically
nullable for the reasons given in `feature_repo.schemas.payment`; `REQUIRED` names the columns that are
never null.
"""

from typing import Final

import pyarrow as pa

from feature_repo.privacy.policy import PSEUDONYM
from feature_repo.schemas.payment import LOG_COLUMNS, TIMESTAMP, column

FRAUD_TYPES: Final = ("probe", "spread", "drain")
"""What `fraud_type` may say: 1. a small probe, then the rest of the balance; 2. the whole balance to several
accounts within minutes; 3. the whole balance in one payment to a merchant."""

LABEL_ID: Final = column(
    "label_id", pa.string(), meaning="{payment_id}:{event_timestamp as epoch us}; unique in its stream"
)
EVENT_TIMESTAMP: Final = column(
    "event_timestamp",
    TIMESTAMP,
    meaning="When the statement became known, hours to days after the payment",
    unit="us since 1970-01-01 UTC",
)
PAYMENT_ID: Final = column("payment_id", pa.string(), meaning="event_id of the payment it is about")
IS_FRAUD: Final = column(
    "is_fraud",
    pa.bool_(),
    meaning="True: reported as fraud; false: looked at and found honest, or an earlier report was wrong",
)
FRAUD_TYPE: Final = column(
    "fraud_type",
    pa.string(),
    meaning="One of FRAUD_TYPES",
    null="is_fraud is false, or the kind is not known",
)
ACCOUNT_ID: Final = column(
    "account_id",
    pa.string(),
    meaning="Payer of the payment; a label without it is given the payment's when it is accepted",
    null="the payment is not known",
)
MERCHANT_ID: Final = column(
    "merchant_id",
    pa.string(),
    meaning="Payee of the payment; a label without it is given the payment's when it is accepted",
    null="the payment is not known",
)
LABELER: Final = column("labeler", pa.string(), meaning="Who says so: chargeback, customer, analyst, ...")

PERSONAL: Final = {"account_id": PSEUDONYM, "merchant_id": PSEUDONYM}
"""What becomes of personal columns where a label comes in."""

REQUIRED: Final = ("label_id", "event_timestamp", "payment_id", "is_fraud", "labeler")
"""Never null in an accepted label."""

LABEL: Final = pa.schema(
    [LABEL_ID, EVENT_TIMESTAMP, PAYMENT_ID, IS_FRAUD, FRAUD_TYPE, LABELER, ACCOUNT_ID, MERCHANT_ID]
)

JOINED: Final = (
    column(
        "payment_timestamp",
        TIMESTAMP,
        meaning="When the payment happened",
        unit="us since 1970-01-01 UTC",
        null="the payment is not known",
    ),
    column(
        "payment_amount",
        pa.float64(),
        meaning="Amount of the payment",
        unit="major units of currency",
        null="the payment is not known",
    ),
)
"""What the flow joins to a label by `payment_id`; see `feature_repo.enrichment`."""

DERIVED: Final = (
    column(
        "fraud_change",
        pa.float64(),
        meaning="What the statement changes in the number of known frauds: 1, -1 (a report withdrawn) or 0",
    ),
    column(
        "known_change",
        pa.float64(),
        meaning="1 for the first statement about a payment, else 0",
    ),
    column(
        "fraud_reported",
        pa.float64(),
        meaning="1 where the payment became a known fraud",
        null="it did not",
    ),
)
"""Computed once, when the label is accepted; from then on they are data."""

LABEL_LOG: Final = pa.schema([*LABEL, *JOINED, *DERIVED, *LOG_COLUMNS])
