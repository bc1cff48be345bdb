"""What models read. A whole view is named, so that a window added to it is in the service, and in the next training set."""

from feast import FeatureService

from on_demand.payment_in_context import payment_in_context
from on_demand.payment_itself import payment_itself
from views.account_daily import account_daily
from views.account_merchant import account_merchant
from views.account_previous import account_previous
from views.account_recent import account_recent
from views.merchant_day import merchant_day
from views.merchant_hour import merchant_hour
from views.merchant_month import merchant_month
from views.merchant_recent import merchant_recent

fraud_detection_v1 = FeatureService(
    name="fraud_detection_v1",
    features=[
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
    ],
    description="Everything the payment-fraud model reads about a payment, as of the payment",
)
