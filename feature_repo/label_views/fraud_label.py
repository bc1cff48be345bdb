"""What is known about a payment: the latest statement at an instant. One row per payment and statement.

A row holds from the instant its statement became known. A correction is a later statement and holds from its own
instant on; of two statements of the same instant the one accepted later holds. A payment without a row has not been
reported. Training reads this view. It is not kept online, because a scorer that could read labels would answer with
them.
"""

from feast import Field
from feast.labeling import ConflictPolicy, LabelView
from feast.types import Bool, String

from entities import payment_entity
from sources import labels_log

fraud_label = LabelView(
    name="fraud_label",
    entities=[payment_entity],
    source=labels_log,
    schema=[
        Field(name="payment_id", dtype=String),
        Field(name="is_fraud", dtype=Bool, description="True: reported; false: an earlier report was wrong"),
        Field(name="fraud_type", dtype=String, description="Kind of fraud, null when honest or not known"),
        Field(name="labeler", dtype=String, description="Who says so: chargeback, customer, analyst, ..."),
    ],
    labeler_field="labeler",
    conflict_policy=ConflictPolicy.LAST_WRITE_WINS,
    online=False,
    description="Whether a payment is known to be fraud; corrections append, the latest known at the cut-off wins",
    tags={"access": "anonymous"},
)
