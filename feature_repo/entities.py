"""The entities that features are kept for; string keys, so that flow, Feast and scorer have the same key bytes."""

from feast import Entity, ValueType

account = Entity(
    name="account",
    join_keys=["account_id"],
    value_type=ValueType.STRING,
    description="Who pays: one account of the payment company's customers",
)
merchant = Entity(
    name="merchant",
    join_keys=["merchant_id"],
    value_type=ValueType.STRING,
    description="Who is paid: a merchant, or another account in a transfer",
)
payment_entity = Entity(
    name="payment",
    join_keys=["payment_id"],
    value_type=ValueType.STRING,
    description="One payment, by its event_id: what labels and charges are about",
)
device = Entity(
    name="device",
    join_keys=["device_id"],
    value_type=ValueType.STRING,
    description="Card or device a payment was made with",
)
