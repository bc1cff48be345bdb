"""Where events come from. Each stream has one log, a folder of Parquet files; the flow appends to it, history is read from it."""

from feast import Field, FileSource, KafkaSource, PushSource, RequestSource
from feast.data_format import JsonFormat, ParquetFormat
from feast.types import Float64, String, UnixTimestamp

from feature_repo.settings import RepoSettings

_settings = RepoSettings()


def _stream(name: str, log: FileSource, what: str) -> KafkaSource | PushSource:
    """A stream where the settings say it comes from; in history it is its log."""
    if _settings.source == "kafka":
        return KafkaSource(
            name=name,
            kafka_bootstrap_servers=_settings.kafka_bootstrap_servers,
            topic=_settings.kafka_topic(name),
            timestamp_field="event_timestamp",
            message_format=JsonFormat(""),
            batch_source=log,
            description=f"{what}: the topic live, the log in history",
        )
    return PushSource(
        name=name,
        batch_source=log,
        description=f"{what}: the bus millstream:{name}:{'*' if name == 'payments' else '0'} live, the log in history",
    )


payments_log = FileSource(
    name="payments_log",
    path=str(_settings.payments_log),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row per accepted payment, see feature_repo/schemas/payment.py",
)
payments = _stream("payments", payments_log, "The payments stream")
labels_log = FileSource(
    name="labels_log",
    path=str(_settings.labels_log),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row per statement about a payment, see feature_repo/schemas/label.py",
)
labels = _stream("labels", labels_log, "The labels stream")
customers_log = FileSource(
    name="customers_log",
    path=str(_settings.customers_log),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    field_mapping={"segment": "customer_segment", "opened_at": "customer_opened_at"},
    description="One row per version of a customer, without what tells who it is, see feature_repo/schemas/customer.py",
)
customers = _stream("customers", customers_log, "The changelog of customers")
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
merchants = _stream("merchants", merchants_log, "The changelog of merchants")
charges_log = FileSource(
    name="charges_log",
    path=str(_settings.charges_log),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row per card charge, see feature_repo/schemas/charge.py",
)
charges = _stream("charges", charges_log, "The stream of card charges")

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
