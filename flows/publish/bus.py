"""Publish events on the bus: one entry per event, whose field `v` is a JSON object with the schema's column names."""

from collections.abc import Iterator

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import redis

from flows.streams import STREAMS, EventStream, partition_of

_PIPELINE = 1_000
"""Commands of one round trip."""


def encode(table: pa.Table) -> list[bytes]:
    """Encode rows as UTF-8 JSON; times are RFC 3339 in UTC, nulls are left out.

    >>> encode(pa.table({"n": [1, None], "t": pa.array([5, 6], pa.timestamp("us", tz="UTC"))}))
    [b'{"n":1,"t":"1970-01-01T00:00:00.000005Z"}', b'{"t":"1970-01-01T00:00:00.000006Z"}']
    """
    columns = []
    for column in table.columns:
        text = pa.types.is_timestamp(column.type)
        columns.append((pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ") if text else column).to_pylist())
    names = table.column_names
    return [
        orjson.dumps({name: value for name, value in zip(names, row, strict=True) if value is not None})
        for row in zip(*columns, strict=True)
    ]


def publish(client: redis.Redis, stream: EventStream, rows: pa.Table, *, partitions: int) -> int:
    """Append events to the stream's partitions on the bus; return how many the bus has acknowledged.

    `rows` has columns of the stream's schema, `partitions` is the setting `MILLSTREAM_BUS_PARTITIONS`.
    """
    if not rows.num_rows:
        return 0
    keys = [part.replace("bus:", "millstream:", 1) for part in stream.bus_parts(partitions)]
    values = encode(rows)
    if len(keys) == 1:
        return _append(client, ((keys[0], value) for value in values))
    placed = (keys[partition_of(key or "", len(keys))] for key in rows[stream.partition_by].to_pylist())
    return _append(client, zip(placed, values, strict=True))


class BusPublisher:
    """Publishes tables of a stream's events on the bus."""

    def __init__(self, client: redis.Redis, partitions: int) -> None:
        self._client = client
        self._partitions = partitions

    def publish(self, stream: str, rows: pa.Table) -> int:
        """Append rows; return how many the bus has acknowledged."""
        return publish(self._client, STREAMS[stream], rows, partitions=self._partitions)


def _append(client: redis.Redis, entries: Iterator[tuple[str, bytes]]) -> int:
    done = 0
    pipeline = client.pipeline(transaction=False)
    for stream, value in entries:
        pipeline.xadd(stream, {"v": value})
        if len(pipeline) >= _PIPELINE:
            done += len(pipeline.execute())
    return done + len(pipeline.execute())
