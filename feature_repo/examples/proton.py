"""The features of Timeplus Proton's fraud example. One row per payment, exact as of the payment.

The repo has all of these views already: the merge of its four SQL views is a list of them. See docs/five-systems.md.
"""

from feast import FeatureService

from on_demand.payment_itself import payment_itself
from views.account_daily import account_daily
from views.account_previous import account_previous
from views.account_recent import account_recent

proton = FeatureService(
    name="proton",
    features=[
        payment_itself[
            [
                "payment_amount",
                "payment_is_transfer",
                "payment_is_cash_out",
                "payment_is_cash_in",
                "payment_is_debit",
            ]
        ],
        account_previous,
        account_recent[
            [
                "account_payment_count_1m",
                "account_amount_max_1m",
                "account_amount_min_1m",
                "account_amount_mean_1m",
                "account_payees_unique_5m",
            ]
        ],
        account_daily[["account_daily_count_mean_30d", "account_daily_max_mean_30d"]],
    ],
    description="Kind, amount, previous payment, last minute, payees of five minutes, average day: as Proton's example has them",
)
