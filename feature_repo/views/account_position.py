"""Where the account last paid, within 30 days. One value per account, exact as of the payment."""

from entities import account
from feature_repo.declare.windowed_view import view_of
from feature_repo.streams.payments import ACCOUNT_POSITION
from sources import payments

account_position = view_of(
    ACCOUNT_POSITION,
    entities=[account],
    source=payments,
    access="anonymous",
    description="Place and age of the last payment with a place",
)
