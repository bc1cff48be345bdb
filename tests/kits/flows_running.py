"""What the tests of the flows share: payments to order, a bus to put them on, a flow process to kill."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from feature_repo.stores.applied_views import AppliedViews, write_views
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.stores.redis_layout.keys import state_field
from feature_repo.streams.payments import PAYMENTS
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.spec import Aggregate, ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows import bootstrap
from flows.bootstrap import run
from flows.process import recovery
from flows.settings import FlowSettings

START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR_US = 3_600_000_000

VIEWS = AppliedViews(
    "millstream",
    {
        "payments": (
            ViewSpec(
                "account_recent",
                ("account_id",),
                0,
                64,
                600_000_000,
                (
                    Aggregate("account_amount_sum_1h", "sum", "amount", HOUR_US),
                    Aggregate("account_payees_unique_1h", "count_distinct", "merchant_id", HOUR_US),
                ),
            ),
            ViewSpec(
                "account_daily",
                ("account_id",),
                HOUR_US,
                1024,
                600_000_000,
                (Aggregate("account_amount_max_1d", "max", "amount", 24 * HOUR_US),),
            ),
            ViewSpec(
                "merchant_recent",
                ("merchant_id",),
                0,
                64,
                600_000_000,
                (Aggregate("merchant_payment_count_1h", "count", "event_id", HOUR_US),),
            ),
        )
    },
)
"""Two entities, three views: enough to see a fold go wrong, quick to compile."""


def payment(number: int, at: datetime | None = None, **changes: Any) -> dict[str, Any]:
    """A payment as the JSON object on the bus; by default a second after the one before."""
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
    return json.dumps(event).encode()


def as_table(events: Sequence[dict[str, Any]]) -> pa.Table:
    """Payments as a canonical Arrow table."""
    rows = [{**e, "event_timestamp": datetime.fromisoformat(e["event_timestamp"])} for e in events]
    return pa.Table.from_pylist(rows, schema=PAYMENTS.schema)


def publish(
    client: redis.Redis, payloads: Sequence[bytes], partition: int = 0, first_ms: int | None = None
) -> None:
    """Put payloads on the bus; with `first_ms`, accepted one per millisecond from then on."""
    with client.pipeline(transaction=False) as pipe:
        for i, payload in enumerate(payloads):
            identity = "*" if first_ms is None else f"{first_ms + i}-0"
            pipe.xadd(f"millstream:payments:{partition}", {"v": payload}, id=identity)
        pipe.execute()


def logged(settings: FlowSettings, columns: list[str] | None = None) -> pa.Table:
    folder = settings.payments_log
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    return pa.concat_tables([pq.read_table(f, columns=columns) for f in files]) if files else pa.table({})


def dead(settings: FlowSettings, stream: str = "payments") -> list[dict[str, Any]]:
    folder = settings.dead_letters / stream
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    return [row for f in files for row in pq.read_table(f).to_pylist()]


def apply_views(settings: FlowSettings, views: AppliedViews = VIEWS) -> None:
    write_views(settings.home / "views.json", views)


def folded_from_log(
    settings: FlowSettings, client: redis.Redis, views: AppliedViews = VIEWS
) -> dict[bytes, list[bytes]]:
    """The truth about the online store: every published event folded once, from nothing."""
    rows = logged(settings)
    block = BlockColumns(rows.combine_chunks())
    expected: dict[bytes, list[bytes]] = {}
    for entity, specs in views.entities("payments").items():
        index = KeyIndex()
        slots = index.slots(block.keys(entity))
        states = [ViewState(spec) for spec in specs]
        for state, spec in zip(states, specs, strict=True):
            state.fold(slots, block.events(spec))
        packed = [state.pack(np.arange(len(index))) for state in states]
        projection = EntityProjection(client, views.project, specs)
        for slot in range(len(index)):
            expected[projection.key(index.name(slot))] = [
                bytes(blob[at[slot] : at[slot + 1]]) for blob, at in packed
            ]
    return expected


def stored_online(client: redis.Redis, views: AppliedViews = VIEWS) -> dict[bytes, list[bytes]]:
    """What the online store holds, key by key."""
    names = {entity: [state_field(s) for s in specs] for entity, specs in views.entities("payments").items()}
    found: dict[bytes, list[bytes]] = {}
    for key in client.scan_iter():
        if key.startswith(b"millstream:"):
            continue
        fields: dict[bytes, bytes] = client.hgetall(key)  # type: ignore[assignment]
        for wanted in names.values():
            if set(wanted) <= set(fields):
                found[key] = [fields[name] for name in wanted]
    return found


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.kits.warm"])


def start(settings: FlowSettings, stream: str = "payments", workers: int = 1) -> BaseProcess:
    """A flow in a process of its own, which costs a fork and not an import."""
    process = _context.Process(target=run, args=(stream, settings, workers), daemon=True)
    process.start()
    return process


def start_of_cluster(
    settings: FlowSettings, process_id: int, addresses: list[str], stream: str = "payments"
) -> BaseProcess:
    """One process of a cluster, as `python -m bytewax.run flows.<stream> -i <id> -a <addresses>` is one."""
    process = _context.Process(
        target=_run_in_cluster, args=(stream, settings, process_id, addresses), daemon=True
    )
    process.start()
    return process


def _run_in_cluster(stream: str, settings: FlowSettings, process_id: int, addresses: list[str]) -> None:
    recovery.run_options = lambda: {"process_id": process_id}
    bootstrap._cli_main = partial(bootstrap._cli_main, process_id=process_id, addresses=addresses)
    run(stream, settings)


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def wait_for(reached: Callable[[], bool], process: BaseProcess | None = None, seconds: float = 180.0) -> None:
    give_up = time.monotonic() + seconds
    while not reached():
        assert process is None or process.is_alive(), "the flow ended before its time"
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.05)


def published(settings: FlowSettings, stream: str = "payments") -> dict[Path, bytes]:
    """The published files of a stream, log and dead letters, and what is in them (a hash)."""
    folders = (settings.log_dir / stream, settings.dead_letters / stream)
    return {
        path: hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        for folder in folders
        for path in folder.glob("*.parquet")
    }


def accounted(settings: FlowSettings) -> int:
    """Events that are published in the log or among the dead letters."""
    files = [
        *settings.payments_log.glob("*.parquet"),
        *(settings.dead_letters / "payments").glob("*.parquet"),
    ]
    return sum(pq.read_metadata(path).num_rows for path in files)


def write_lines(path: Path, payloads: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(payload + b"\n" for payload in payloads))
    return path
