"""Feast sources: two for each declared stream, and the request that is scored.

A stream `logins` gives `logins_log`, its event log, and `logins`, the live stream whose history is that log. A view
imports them by these names: `from sources import logins`.
"""

from typing import Any

from feast import Field, FileSource, KafkaSource, PushSource, RequestSource
from feast.data_format import JsonFormat, ParquetFormat
from feast.types import Float64, String, UnixTimestamp

from feature_repo.settings import RepoSettings
from feature_repo.streams import STREAMS, EventStream

_settings = RepoSettings()


def log_source(stream: EventStream) -> FileSource:
    """Return the event log of a stream, a folder of Parquet files that its flow appends to."""
    return FileSource(
        name=f"{stream.name}_log",
        path=str(stream.log_folder(_settings)),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        field_mapping=dict(stream.feature_names),
        description=f"The event log, {stream.grain}: see feature_repo/streams/{stream.name}.py",
    )


def stream_source(stream: EventStream, log: FileSource) -> KafkaSource | PushSource:
    """Return the live stream, on Kafka or the bus as the settings say; its history is its log."""
    if _settings.source == "kafka":
        return KafkaSource(
            name=stream.name,
            kafka_bootstrap_servers=_settings.kafka_bootstrap_servers,
            topic=_settings.kafka_topic(stream.name),
            timestamp_field="event_timestamp",
            message_format=JsonFormat(""),
            batch_source=log,
            description=f"The stream of {stream.name}: the topic live, the log in history",
        )
    parts = "*" if stream.partitioned else "0"
    return PushSource(
        name=stream.name,
        batch_source=log,
        description=f"The stream of {stream.name}: the bus millstream:{stream.name}:{parts} live, the log in history",
    )


for _stream in STREAMS.values():
    _log = log_source(_stream)
    globals()[f"{_stream.name}_log"] = _log
    globals()[_stream.name] = stream_source(_stream, _log)


def __getattr__(name: str) -> Any:
    declared = ", ".join(STREAMS)
    raise AttributeError(
        f"no source {name!r}: declare the stream in feature_repo/streams; there are: {declared}"
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
    description="The payment being scored: online the request, offline the entity row",
)
