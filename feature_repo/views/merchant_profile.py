"""Category, place, risk tier and age of a merchant. One value per merchant, as of its newest version."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.types import Float64, String, UnixTimestamp

from entities import merchant
from sources import merchants_log

merchant_profile = FeatureView(
    name="merchant_profile",
    entities=[merchant],
    source=merchants_log,
    schema=[
        Field(name="merchant_id", dtype=String),
        Field(name="merchant_category", dtype=String, description="What it sells"),
        Field(name="merchant_latitude", dtype=Float64, description="Degrees north, WGS 84"),
        Field(name="merchant_longitude", dtype=Float64, description="Degrees east, WGS 84"),
        Field(name="merchant_risk_tier", dtype=String, description="low, medium or high"),
        Field(name="merchant_opened_at", dtype=UnixTimestamp, description="Since when it takes payments"),
    ],
    ttl=timedelta(0),
    description="Category, place, risk tier and age of a merchant; null once it is gone",
    owner="merchants",
    tags={"access": "anonymous", "clock": "accepted", "stream": "merchants"},
)
