"""Events onto the bus: one entry per event, its field `v` a JSON object with the schema's column names."""

from collections.abc import Iterator

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import redis

from flows.streams import partition_of

PAYMENTS = "millstream:payments:{}"
LABELS = "millstream:labels:0"
CUSTOMERS = "millstream:customers:0"
MERCHANTS = "millstream:merchants:0"
CHARGES = "millstream:charges:0"
_PIPELINE = 1_000


def encode(table: pa.Table) -> list[bytes]:
    """Rows to UTF-8 JSON; times as RFC 3339 in UTC, nulls left out.

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


class BusPublisher:
    """Publishes tables of a stream's events on the bus."""

    def __init__(self, client: redis.Redis, partitions: int) -> None:
        self._client = client
        self._partitions = partitions

    def publish(self, stream: str, rows: pa.Table) -> int:
        """Append rows; returns how many the bus has acknowledged."""
        if stream == "payments":
            return publish_payments(self._client, rows, partitions=self._partitions)
        return _append_all(self._client, f"millstream:{stream}:0", rows)


def publish_payments(client: redis.Redis, payments: pa.Table, *, partitions: int) -> int:
    """Append payments to their partitions; returns how many the bus has acknowledged."""
    accounts = payments["account_id"].to_pylist()
    streams = (PAYMENTS.format(partition_of(account, partitions)) for account in accounts)
    return _append(client, zip(streams, encode(payments), strict=True))


def publish_labels(client: redis.Redis, labels: pa.Table) -> int:
    """Append labels; returns how many the bus has acknowledged."""
    return _append_all(client, LABELS, labels)


def publish_customers(client: redis.Redis, customers: pa.Table) -> int:
    """Append versions of customers; returns how many the bus has acknowledged."""
    return _append_all(client, CUSTOMERS, customers)


def publish_merchants(client: redis.Redis, merchants: pa.Table) -> int:
    """Append versions of merchants; returns how many the bus has acknowledged."""
    return _append_all(client, MERCHANTS, merchants)


def publish_charges(client: redis.Redis, charges: pa.Table) -> int:
    """Append charges; returns how many the bus has acknowledged."""
    return _append_all(client, CHARGES, charges)


def _append_all(client: redis.Redis, stream: str, rows: pa.Table) -> int:
    return _append(client, ((stream, value) for value in encode(rows))) if rows.num_rows else 0


def _append(client: redis.Redis, entries: Iterator[tuple[str, bytes]]) -> int:
    done = 0
    pipeline = client.pipeline(transaction=False)
    for stream, value in entries:
        pipeline.xadd(stream, {"v": value})
        if len(pipeline) >= _PIPELINE:
            done += len(pipeline.execute())
    return done + len(pipeline.execute())
