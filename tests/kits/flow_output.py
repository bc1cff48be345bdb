"""What a flow has written: the log, the dead letters, the online store, and what that store must hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from feature_repo.stores.applied_views import AppliedViews
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.stores.redis_layout.keys import state_field
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.state import KeyIndex, ViewState
from flows.settings import FlowSettings
from tests.kits.views import VIEWS


def log_rows(settings: FlowSettings, columns: list[str] | None = None) -> pa.Table:
    """The published rows of the log of payments, file after file."""
    folder = settings.payments_log
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    return pa.concat_tables([pq.read_table(f, columns=columns) for f in files]) if files else pa.table({})


def dead_letter_rows(settings: FlowSettings, stream: str = "payments") -> list[dict[str, Any]]:
    """The published dead letters of a stream, file after file."""
    folder = settings.dead_letters / stream
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    return [row for f in files for row in pq.read_table(f).to_pylist()]


def events_written(settings: FlowSettings, stream: str = "payments") -> int:
    """Count the events in the published files of the log and the dead letters; those erased since count too."""
    total = 0
    for folder in (settings.log_dir / stream, settings.dead_letters / stream):
        for path in folder.glob("*.parquet"):
            footer = pq.read_metadata(path)
            erased = json.loads((footer.metadata or {}).get(b"millstream.erased", b"{}"))
            total += footer.num_rows + sum(erased.values())
    return total


def published_files(settings: FlowSettings, stream: str = "payments") -> dict[Path, bytes]:
    """The published files of a stream, log and dead letters, each with a hash of its content."""
    folders = (settings.log_dir / stream, settings.dead_letters / stream)
    return {
        path: hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        for folder in folders
        for path in folder.glob("*.parquet")
    }


def states_from_log(
    settings: FlowSettings, client: redis.Redis, views: AppliedViews = VIEWS
) -> dict[bytes, list[bytes]]:
    """Compute what the online store must hold: key -> one state per view, every event of the log folded once."""
    rows = log_rows(settings)
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


def states_online(client: redis.Redis, views: AppliedViews = VIEWS) -> dict[bytes, list[bytes]]:
    """Read what the online store holds: key -> one state per view."""
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
