"""All stored columns of a customer, for the owners of the stream. One value per account, as of its newest version.

E-mail and phone are pseudonyms: they show whether two accounts share one, and nothing else.
Models read `account_profile` instead.
"""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float64, String, UnixTimestamp

from entities import account
from sources import customers_log

customers = FeatureView(
    name="customers",
    entities=[account],
    source=customers_log,
    schema=[
        Field(name="account_id", dtype=String),
        Field(name="home_latitude", dtype=Float64, description="Degrees north, WGS 84"),
        Field(name="home_longitude", dtype=Float64, description="Degrees east, WGS 84"),
        Field(name="email", dtype=String, description="Pseudonym of the e-mail address"),
        Field(name="phone", dtype=String, description="Pseudonym of the telephone number"),
        Field(name="customer_segment", dtype=String, description="student, standard, premium or business"),
        Field(name="customer_opened_at", dtype=UnixTimestamp, description="When the account was opened"),
    ],
    ttl=timedelta(0),
    description="All that is kept of a customer; null once the account is closed",
    owner="customers",
    tags={"access": "owner", "stream": "customers", "personal": "pseudonymous"},
)
