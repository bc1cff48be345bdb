"""Whether the account has used this device. One value per pair of account and device, exact as of the payment."""

from entities import account, device
from feature_repo.declare.windowed_view import view_of
from feature_repo.streams.payments import ACCOUNT_DEVICE
from sources import payments

account_device = view_of(
    ACCOUNT_DEVICE,
    entities=[account, device],
    source=payments,
    access="anonymous",
    description="Payments of the account with this device",
)
