"""How the card of a payment was charged. One value per payment, as of its authorisation, for seven days."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import String

from entities import payment_entity
from sources import charges_log

charge = FeatureView(
    name="charge",
    entities=[payment_entity],
    source=charges_log,
    schema=[
        Field(name="payment_id", dtype=String),
        Field(name="card_network", dtype=String, description="visa, mastercard, amex or other"),
        Field(
            name="entry_mode", dtype=String, description="chip, contactless, magstripe, ecommerce or manual"
        ),
        Field(name="three_ds_result", dtype=String, description="Outcome of 3-D Secure"),
        Field(
            name="issuer_country", dtype=String, description="Country of the card's bank, ISO 3166-1 alpha-2"
        ),
    ],
    ttl=timedelta(days=7),
    description="Card network, entry mode, 3-D Secure and issuer of a payment's charge",
    owner="payments",
    tags={"access": "anonymous", "clock": "accepted", "stream": "charges"},
)
