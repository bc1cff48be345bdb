"""A user adds one Aggregation line and applies: flow, training set and scorer follow without another edit."""

import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from feature_repo.settings import RepoSettings
from feature_repo.stores.open_store import REPO, open_store
from feature_repo.stores.reader.plan import compile_plan
from feature_repo.stores.reader.reader import Reader, Vector
from flows.bootstrap import run
from flows.generate.history import generate
from flows.settings import FlowSettings
from tests.kits.applied_home import feast
from training.feature_matrix import FeastSource

SERVICE = "fraud_detection_v1"
LINE = '    Aggregation(name="{name}", function="{function}", column="{column}", time_window=timedelta({span})),\n]\n'


def add_aggregation(repo: Path, name: str, function: str, column: str, span: str) -> None:
    view = repo / "views" / "account_recent.py"
    text = view.read_text()
    end = text.index("\n]\n") + 1
    view.write_text(
        text[:end] + LINE.format(name=name, function=function, column=column, span=span) + text[end + 2 :]
    )


def run_files(folder: Path, payments: pa.Table, name: str) -> None:
    path = folder / f"{name}.parquet"
    pq.write_table(payments, path)
    settings = FlowSettings()
    run("payments", settings.model_copy(update={"source_files": settings.join_files([path])}))


def score(client: redis.Redis, reader: Reader, row: dict[str, Any]) -> Vector:
    replies = [client.hmget(key, fields) for key, fields in reader.commands(row)]
    at = (row["event_timestamp"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return reader.vector(row, replies, at, time.time_ns() // 1000)


ADDED = (
    ("account_amount_sum_2h", "sum", "amount", "hours=2"),
    ("account_amount_max_3d", "max", "amount", "days=3"),  # needs older events than the state holds
    ("account_devices_unique_1h", "count_distinct", "device_id", "hours=1"),  # needs another column of them
)


def test_aggregation_lines_reach_store_training_set_and_scorer(
    clean_redis: redis.Redis, home: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "feature_repo"
    shutil.copytree(REPO, repo, ignore=shutil.ignore_patterns("__pycache__"))
    settings = RepoSettings()
    feast(settings, "apply", repo=repo)
    end = datetime.now(UTC)
    payments = generate(5, end - timedelta(days=8), days=8, accounts=60, merchants=20, payments=1500).payments
    run_files(tmp_path, payments.slice(0, 1450), "before")

    for line in ADDED:
        add_aggregation(repo, *line)
    feast(settings, "apply", repo=repo)
    run_files(tmp_path, payments.slice(1450), "after")  # most accounts have no payment in here

    store = open_store(settings, repo)
    names = [name for name, *_ in ADDED]
    rows = {row["account_id"]: row | {"event_timestamp": end} for row in payments.to_pylist()}
    asked = pa.Table.from_pylist(list(rows.values()), schema=payments.schema)
    trained_on = FeastSource(store, SERVICE).fetch(asked).to_pylist()
    reader = Reader(compile_plan(store, SERVICE, repo), repo)
    for row, expected in zip(rows.values(), trained_on, strict=True):
        live = score(clean_redis, reader, row)
        assert not live.incomplete
        assert live.named | expected == live.named | {"event_id": row["event_id"]}
    assert all(sum(bool(row[name]) for row in trained_on) > 0 for name in names)
