"""Where events come from. Each stream has one log, a folder of Parquet files; the flow appends to it, history is read from it."""

from feast import Field, FileSource, PushSource, RequestSource
from feast.data_format import ParquetFormat
from feast.types import Float64, String, UnixTimestamp

from feature_repo.settings import RepoSettings

_settings = RepoSettings()

payments_log = FileSource(
    name="payments_log",
    path=str(_settings.payments_log),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row per accepted payment, see feature_repo/schemas/payment.py",
)
payments = PushSource(
    name="payments",
    batch_source=payments_log,
    description="The payments stream: the bus millstream:payments:* live, the log in history",
)
labels_log = FileSource(
    name="labels_log",
    path=str(_settings.labels_log),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row per statement about a payment, see feature_repo/schemas/label.py",
)
labels = PushSource(
    name="labels",
    batch_source=labels_log,
    description="The labels stream: the bus millstream:labels:0 live, the log in history",
)
customers_log = FileSource(
    name="customers_log",
    path=str(_settings.customers_log),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    field_mapping={"segment": "customer_segment", "opened_at": "customer_opened_at"},
    description="One row per version of a customer, without what tells who it is, see feature_repo/schemas/customer.py",
)
customers = PushSource(
    name="customers",
    batch_source=customers_log,
    description="The changelog of customers: the bus millstream:customers:0 live, the log in history",
)
merchants_log = FileSource(
    name="merchants_log",
    path=str(_settings.merchants_log),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    field_mapping={
        "category": "merchant_category",
        "latitude": "merchant_latitude",
        "longitude": "merchant_longitude",
        "risk_tier": "merchant_risk_tier",
        "opened_at": "merchant_opened_at",
    },
    description="One row per version of a merchant, see feature_repo/schemas/merchant.py",
)
merchants = PushSource(
    name="merchants",
    batch_source=merchants_log,
    description="The changelog of merchants: the bus millstream:merchants:0 live, the log in history",
)
charges_log = FileSource(
    name="charges_log",
    path=str(_settings.charges_log),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row per card charge, see feature_repo/schemas/charge.py",
)
charges = PushSource(
    name="charges",
    batch_source=charges_log,
    description="The stream of card charges: the bus millstream:charges:0 live, the log in history",
)

payment = RequestSource(
    name="payment",
    schema=[
        Field(name="event_timestamp", dtype=UnixTimestamp),
        Field(name="type", dtype=String),
        Field(name="amount", dtype=Float64),
        Field(name="account_balance_before", dtype=Float64),
        Field(name="latitude", dtype=Float64),
        Field(name="longitude", dtype=Float64),
    ],
    description="The payment being scored: on line the request, off line the entity row",
)
