"""Publish events on Kafka topics: one record per event, keyed by the stream's `partition_by`."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa

from feature_repo.errors import FlowError
from feature_repo.kafka.client import require_package
from feature_repo.kafka.producer import TopicProducer
from flows.accept.avro import schema_to_write
from flows.publish.bus import encode
from flows.settings import FlowSettings
from flows.streams import STREAMS

_DELIVERED_WITHIN_S: Final = 120.0


class TopicPublisher:
    """Publishes tables of a stream's events."""

    def __init__(self, settings: FlowSettings) -> None:
        self._settings = settings
        self._producer = TopicProducer(settings)
        self._encoders: dict[str, Callable[[pa.Table], Sequence[bytes]]] = {}

    def publish(self, stream: str, rows: pa.Table) -> int:
        """Append rows; return their number once the brokers acknowledged all. Raises `FlowError` after 120 s."""
        if not rows.num_rows:
            return 0
        topic = self._settings.kafka_topic(stream)
        keys = rows[STREAMS[stream].partition_by].to_pylist()
        for key, value in zip(keys, self._encoder(stream)(rows), strict=True):
            self._producer.send(topic, (key or "").encode(), value)
        left = self._producer.flush(_DELIVERED_WITHIN_S)
        if left:
            raise FlowError(
                f"{left} of {rows.num_rows} {stream} were not acknowledged within {_DELIVERED_WITHIN_S:.0f} s",
                where=f"{topic} at {self._settings.kafka_bootstrap_servers}",
                todo="check the brokers, the topic and what this user may do",
            )
        return int(rows.num_rows)

    def _encoder(self, stream: str) -> Callable[[pa.Table], Sequence[bytes]]:
        if self._settings.format == "json":
            return encode
        if stream not in self._encoders:
            self._encoders[stream] = avro_encoder(schema_to_write(STREAMS[stream], self._settings))
        return self._encoders[stream]


def avro_encoder(schema: Any) -> Callable[[pa.Table], Sequence[bytes]]:
    """Return a function that encodes each row of a table as a bare Avro record; fastavro parsed `schema`."""
    require_package("fastavro")
    from fastavro import schemaless_writer

    def encoded(rows: pa.Table) -> list[bytes]:
        made = []
        for row in rows.to_pylist():
            file = io.BytesIO()
            schemaless_writer(file, schema, row)
            made.append(file.getvalue())
        return made

    return encoded
