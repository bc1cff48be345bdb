"""Home, segment and age of an account, without names or addresses. One value per account, as of its newest version."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float64, String, UnixTimestamp

from entities import account
from sources import customers_log

account_profile = FeatureView(
    name="account_profile",
    entities=[account],
    source=customers_log,
    schema=[
        Field(name="account_id", dtype=String),
        Field(name="home_latitude", dtype=Float64, description="Degrees north, WGS 84"),
        Field(name="home_longitude", dtype=Float64, description="Degrees east, WGS 84"),
        Field(name="customer_segment", dtype=String, description="student, standard, premium or business"),
        Field(name="customer_opened_at", dtype=UnixTimestamp, description="When the account was opened"),
    ],
    ttl=timedelta(0),
    description="Home, segment and age of an account; null once it is closed",
    owner="customers",
    tags={"access": "anonymous", "clock": "accepted", "stream": "customers"},
)
