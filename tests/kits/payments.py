"""Payments as they are on the bus, and putting them there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import redis

from feature_repo.streams.payments import PAYMENTS

START = datetime(2026, 11, 1, tzinfo=UTC)


def payment(number: int, at: datetime | None = None, **changes: Any) -> dict[str, Any]:
    """A payment as the JSON object on the bus; by default one second after the payment before it; `...` leaves a field
    out.
    """
    time_of = at or START + timedelta(seconds=number)
    event = {
        "event_id": f"p{number:010d}",
        "event_timestamp": time_of.isoformat().replace("+00:00", "Z"),
        "account_id": f"a{number % 17}",
        "merchant_id": f"m{number % 5}",
        "type": "PAYMENT",
        "amount": float(number % 100) + 0.25,
        "currency": "EUR",
        "channel": "app",
    }
    return {name: value for name, value in (event | changes).items() if value is not ...}


def encoded(event: dict[str, Any]) -> bytes:
    """An event as JSON bytes."""
    return json.dumps(event).encode()


def as_table(events: Sequence[dict[str, Any]]) -> pa.Table:
    """Payments as a canonical Arrow table."""
    rows = [{**e, "event_timestamp": datetime.fromisoformat(e["event_timestamp"])} for e in events]
    return pa.Table.from_pylist(rows, schema=PAYMENTS.schema)


def publish(
    client: redis.Redis,
    payloads: Sequence[bytes],
    partition: int = 0,
    first_ms: int | None = None,
    *,
    stream: str = "payments",
) -> None:
    """Put payloads on the bus; with `first_ms`, one per millisecond of accept time from then on."""
    with client.pipeline(transaction=False) as pipe:
        for i, payload in enumerate(payloads):
            identity = "*" if first_ms is None else f"{first_ms + i}-0"
            pipe.xadd(f"millstream:{stream}:{partition}", {"v": payload}, id=identity)
        pipe.execute()


def write_lines(path: Path, payloads: Sequence[bytes]) -> Path:
    """Write payloads as the lines of a file."""
    path.write_bytes(b"".join(payload + b"\n" for payload in payloads))
    return path
