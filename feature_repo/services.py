"""Feature services: what models read. A service names whole views, so that a new window of a view is in it at once.

Each service contains the one before it, so that a comparison shows what enrichment and labels add.
"""

from feast import FeatureService

from on_demand.payment_habits import payment_habits
from on_demand.payment_in_context import payment_in_context
from on_demand.payment_itself import payment_itself
from on_demand.payment_parties import payment_parties
from on_demand.payment_place import payment_place
from on_demand.payment_reputation import payment_reputation
from views.account_amounts import account_amounts
from views.account_behaviour import account_behaviour
from views.account_daily import account_daily
from views.account_labels import account_labels
from views.account_last_three import account_last_three
from views.account_merchant import account_merchant
from views.account_previous import account_previous
from views.account_recent import account_recent
from views.merchant_behaviour import merchant_behaviour
from views.merchant_day import merchant_day
from views.merchant_hour import merchant_hour
from views.merchant_labels import merchant_labels
from views.merchant_month import merchant_month
from views.merchant_recent import merchant_recent

_payments = [
    account_recent,
    account_previous,
    account_daily,
    merchant_recent,
    merchant_hour,
    merchant_day,
    merchant_month,
    account_merchant,
    payment_itself,
    payment_in_context,
]
_enrichment = [
    account_amounts,
    account_behaviour,
    account_last_three,
    merchant_behaviour,
    payment_place,
    payment_habits,
    payment_parties,
]
_labels = [account_labels, merchant_labels, payment_reputation]

fraud_detection_v1 = FeatureService(
    name="fraud_detection_v1",
    features=_payments,
    description="What earlier payments of the account and to the merchant say about a payment, as of the payment",
)
fraud_detection_v2 = FeatureService(
    name="fraud_detection_v2",
    features=_payments + _enrichment,
    description="The same, and who pays, who is paid, where, with what, and how that fits the account",
)
fraud_detection_v3 = FeatureService(
    name="fraud_detection_v3",
    features=_payments + _enrichment + _labels,
    description="The same, and what is known of earlier frauds of both, as far as it was known at the payment",
)
