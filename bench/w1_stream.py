"""Workload W1 as a stream: its declaration, its views, its row checks, and its payments as JSON on a bus.

It is declared like a user's own stream and runs through the product's pipeline; whoever runs it only registers its
name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis

from bench import w1
from feature_repo.declare.stream import between, length, number, text, time
from feature_repo.stores.applied_views import AppliedViews, write_views
from flows.settings import FlowSettings
from flows.streams import STREAMS, EventStream

NAME: Final = "w1"
PROJECT: Final = "bench"
PARTITIONS: Final = 4
STREAM: Final = EventStream(
    name=NAME,
    grain="one row per payment",
    partition_by="account_id",
    partitioned=True,
    columns=(
        text("event_id", "Identity of the payment", checks=[length(1, 64)]),
        time("event_timestamp", "When the payment happened"),
        text("account_id", "Payer", checks=[length(1, 64)]),
        text("merchant_id", "Payee", checks=[length(1, 64)]),
        number("amount", "How much was moved", checks=[between(0, 1e9)]),
    ),
)
VIEWS: Final = AppliedViews(PROJECT, {NAME: (w1.account_view(), w1.merchant_view())})

_XADD: Final = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$1\r\nv\r\n$%d\r\n%b\r\n"
_CHUNK: Final = 2_000


def register() -> None:
    """Make the stream known to the flows of this process."""
    STREAMS[NAME] = STREAM


def apply(settings: FlowSettings) -> None:
    """Write `views.json`, as `feast apply` does."""
    write_views(settings.home / "views.json", VIEWS)


def stream_name(partition: int, prefix: str = "millstream") -> str:
    """The Redis stream of a partition."""
    return f"{prefix}:{NAME}:{partition}"


def as_json(rows: pa.Table) -> list[bytes]:
    """One JSON object per payment, as a producer would write it."""
    texts = pc.strftime(rows["event_timestamp"], format="%Y-%m-%dT%H:%M:%SZ")
    columns = zip(
        rows["event_id"].to_pylist(),
        texts.to_pylist(),
        rows["account_id"].to_pylist(),
        rows["merchant_id"].to_pylist(),
        rows["amount"].to_pylist(),
        strict=True,
    )
    return [
        f'{{"event_id":"{event}","event_timestamp":"{at}","account_id":"{account}","merchant_id":"{merchant}","amount":{amount!r}}}'.encode()
        for event, at, account, merchant, amount in columns
    ]


def packed(payloads: Sequence[bytes], stream: str) -> bytes:
    """XADD commands, one entry per payload."""
    name = stream.encode()
    return b"".join([_XADD % (len(name), name, len(p), p) for p in payloads])


def partition_of(rows: pa.Table) -> np.typing.NDArray[np.int64]:
    """A payment's partition, by its account, as payments are partitioned everywhere."""
    numbers = pc.cast(pc.utf8_slice_codeunits(rows["account_id"], 1), pa.int64())
    return np.asarray(numbers.to_numpy()) % PARTITIONS


def fill(client: redis.Redis, rows: pa.Table, prefix: str) -> None:
    """Put payments on the bus; each partition is in time order."""
    payloads, partitions = as_json(rows), partition_of(rows)
    connection: Any = client.connection_pool.get_connection()
    try:
        for partition in range(PARTITIONS):
            mine = [payloads[i] for i in np.flatnonzero(partitions == partition).tolist()]
            for first in range(0, len(mine), _CHUNK):
                some = mine[first : first + _CHUNK]
                connection.send_packed_command([packed(some, stream_name(partition, prefix))])
                for _ in some:
                    connection.read_response()
    finally:
        client.connection_pool.release(connection)


def open_gate(client: redis.Redis) -> None:
    """Rename the prepared streams to the names that readers wait for, all at once."""
    with client.pipeline() as pipe:
        for p in range(PARTITIONS):
            pipe.rename(stream_name(p, "prepared"), stream_name(p))
        pipe.execute()


def close_gate(client: redis.Redis) -> None:
    """Rename them back and remove all that was written to the online store."""
    with client.pipeline() as pipe:
        for p in range(PARTITIONS):
            pipe.rename(stream_name(p), stream_name(p, "prepared"))
        pipe.execute()
    clear(client)


def clear(client: redis.Redis) -> None:
    """Remove everything but the prepared payments."""
    keys: list[bytes] = [k for k in client.scan_iter(count=5_000) if not k.startswith(b"prepared:")]
    for first in range(0, len(keys), 2_000):
        client.unlink(*keys[first : first + 2_000])


def times_us(rows: pa.Table) -> np.typing.NDArray[np.int64]:
    """Event times in microseconds."""
    return np.asarray(rows["event_timestamp"].cast(pa.int64()).to_numpy())
