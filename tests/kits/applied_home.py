"""A home with the repo applied, a log, and states folded from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from feature_repo.declare.stream import LOG_COLUMNS
from feature_repo.settings import RepoSettings
from feature_repo.stores.applied_views import AppliedViews, read_views
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.stores.open_store import REPO, config_file
from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.stores.redis_layout.view_versions import mark_filled
from feature_repo.streams.payments import PAYMENTS
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.state import KeyIndex, ViewState


def feast(settings: RepoSettings, *arguments: str, repo: Path = REPO) -> str:
    """Run Feast's command line on a home; return its output."""
    command = [
        str(Path(sys.executable).with_name("feast")),
        "-f",
        str(config_file(settings, repo)),
        *arguments,
    ]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def with_derived(payments: pa.Table) -> pa.Table:
    """Add the joined and derived columns to payments, all null, as in a log without other streams and positions."""
    for column in PAYMENTS.log_schema:
        if column.name not in {*payments.schema.names, *(c.name for c in LOG_COLUMNS)}:
            payments = payments.append_column(column.name, pa.nulls(payments.num_rows, column.type))
    return payments


def log_payments(settings: RepoSettings, payments: pa.Table, name: str = "part-0") -> None:
    """Write payments into the event log as the flow would, accepted at their event time."""
    n = payments.num_rows
    payments = with_derived(payments)
    logged = payments.append_column("created_timestamp", payments["event_timestamp"])
    logged = logged.append_column("source_partition", pa.array(["test"] * n))
    logged = logged.append_column("source_offset", pa.array(np.arange(n)))
    settings.payments_log.mkdir(parents=True, exist_ok=True)
    pq.write_table(logged, settings.payments_log / f"{name}.parquet", compression="zstd")


def project(settings: RepoSettings, payments: pa.Table, blocks: int = 7) -> AppliedViews:
    """Fold payments and write all states to Redis in this process, without a flow."""
    views = read_views(settings.home / "views.json")
    client = redis.Redis.from_url(settings.redis_url)
    payments = with_derived(payments)
    for specs in views.entities("payments").values():
        index, states = KeyIndex(), [ViewState(s) for s in specs]
        for rows in np.array_split(np.arange(payments.num_rows), blocks):
            part = payments.take(rows)
            block = BlockColumns(part.filter(pa.array(BlockColumns(part).has_keys(specs[0].join_keys))))
            slots = index.slots(block.keys(specs[0].join_keys))
            for spec, state in zip(specs, states, strict=True):
                state.fold(slots, block.events(spec))
        EntityProjection(client, views.project, specs).write(index, states, np.arange(len(index)))
    mark_filled(client, views.project, map(version_id, views.every_kept()), 0, 1)
    return views
