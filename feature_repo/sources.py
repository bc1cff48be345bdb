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
