"""Quantiles of the account's amounts, robust against a few large frauds. One value per account, as of the last hour."""

from entities import account
from feature_repo.declare.windowed_view import view_of
from feature_repo.streams.payments import ACCOUNT_AMOUNTS
from sources import payments

account_amounts = view_of(
    ACCOUNT_AMOUNTS,
    entities=[account],
    source=payments,
    access="anonymous",
    description="Median and upper quantile of the amounts, within 1 percent (log-bucket sketch)",
)
