"""A log of a million payments with all streams that the service reads, and the same features pre-computed for Feast.

Payments, labels, customers, merchants and charges come from the project's generator, with as many events per key as in
its usual world; all are accepted at their event times. Columns that the flow would derive (distances, flags) are
random, with realistic nulls: their values do not change the cost of a join.

The references read one Parquet file per view: keys, event time and feature values of every payment. Payments whose
answers are compared have the join's own values; all others have the values of one of these payments.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.harness import console
from feature_repo.settings import PROJECT_ROOT, RepoSettings

SERVICE: Final = "fraud_detection_v3"
START: Final = datetime(2026, 10, 1, tzinfo=UTC)
DAYS: Final = 30.0
PAYMENTS, ACCOUNTS, MERCHANTS = 1_000_000, 22_000, 2_200
PAYMENT_KEY: Final = "payment_id"
REFERENCE: Final = "reference"
COMPARED: Final = 500
"""Payments whose features are computed for the references: `entity_rows(settings, COMPARED)`."""


HOME: Final = PROJECT_ROOT / "var" / "bench" / "join"


def prepared() -> RepoSettings:
    """The home under `var/bench/`, built first (a minute) if there is none of these definitions."""
    os.environ |= {"MILLSTREAM_HOME": str(HOME), "MILLSTREAM_PSEUDONYM_KEY": "off"}
    settings, mark = RepoSettings(home=HOME), HOME / "built.txt"
    if not mark.exists() or mark.read_text() != _sources():
        console.print(f"building logs and pre-computed features in {HOME} (a minute) ...")
        subprocess.run([sys.executable, "-m", "bench.join_home"], check=True, cwd=PROJECT_ROOT)
        mark.write_text(_sources())
    return settings


def _sources() -> str:
    repo = PROJECT_ROOT / "feature_repo"
    files = [
        p
        for folder in ("views", "on_demand", "enrichment", "schemas")
        for p in sorted((repo / folder).rglob("*.py"))
    ]
    files += [repo / "services.py", repo / "sources.py", repo / "windows" / "spec.py", Path(__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def build() -> None:
    from feature_repo.stores.open_store import open_store
    from flows.local.redis_server import EmbeddedServer

    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    settings = RepoSettings(home=HOME)
    write_logs(settings, PAYMENTS)
    with EmbeddedServer(HOME) as server:
        apply(settings, server.url)
    write_reference(settings, open_store(settings))


def write_logs(settings: RepoSettings, payments: int) -> None:
    from feature_repo.declare.stream import CREATED_TIMESTAMP
    from feature_repo.streams.payments import PAYMENTS
    from flows.generate.history import generate

    share = payments / PAYMENTS
    history = generate(
        1, START, DAYS, accounts=int(ACCOUNTS * share), merchants=int(MERCHANTS * share), payments=payments
    )
    n, draw = history.payments.num_rows, np.random.default_rng(1)
    columns = []
    for field in PAYMENTS.log_schema:
        if field.name in history.payments.column_names:
            columns.append(history.payments.column(field.name))
        elif field.name == CREATED_TIMESTAMP.name:
            columns.append(history.payments.column("event_timestamp"))
        elif pa.types.is_boolean(field.type):
            columns.append(pa.array(draw.random(n) < 0.05, mask=draw.random(n) < 0.1))
        elif pa.types.is_float64(field.type):
            columns.append(pa.array(np.round(draw.lognormal(8, 1, n)), mask=draw.random(n) < 0.2))
        else:
            columns.append(pa.nulls(n, field.type))
    _write(pa.Table.from_arrays(columns, schema=PAYMENTS.log_schema), settings.log_dir / "payments")
    fraud = pc.cast(history.labels.column("is_fraud"), pa.float64())
    labels = history.labels.append_column("fraud_change", fraud)  # every payment is spoken of once
    labels = labels.append_column("known_change", pa.array(np.ones(labels.num_rows)))
    labels = labels.append_column("fraud_reported", pc.if_else(pc.equal(fraud, 1.0), fraud, None))
    for name, table in (
        ("labels", labels),
        ("customers", history.customers),
        ("merchants", history.merchants),
        ("charges", history.charges),
    ):
        _write(
            table.append_column(CREATED_TIMESTAMP.name, table.column("event_timestamp")),
            settings.log_dir / name,
        )


def _write(table: pa.Table, folder: Path) -> None:
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet", compression="zstd", row_group_size=1 << 17)


def apply(settings: RepoSettings, redis_url: str) -> None:
    """`feast apply` of the repository, for this home, in a process of its own."""
    environment = {**os.environ, "MILLSTREAM_HOME": str(settings.home), "REDIS_URL": redis_url}
    subprocess.run(
        [sys.executable, "-m", "flows.demo.apply"],
        check=True,
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
    )


def entity_rows(settings: RepoSettings, n: int | None = None, seed: int = 2) -> pa.Table:
    """Payments of the log, all or `n` drawn from them, as a training run sends them."""
    from feature_repo.streams.payments import PAYMENTS

    rows = pq.read_table(settings.log_dir / "payments", columns=PAYMENTS.schema.names)
    if n is not None:
        chosen = np.random.default_rng(seed).choice(rows.num_rows, min(n, rows.num_rows), replace=False)
        rows = rows.take(np.sort(chosen))
    return rows.append_column(PAYMENT_KEY, rows.column("event_id"))


def dealt(store: Any) -> list[tuple[tuple[str, ...], list[str]]]:
    """(join keys, features) of the reference's views: one per view that the service reads, with all its features.

    A windowed view's stand-in has its features; those of on-demand views are dealt out among the plain ones'.
    """
    from feature_repo.stores.reader.plan import compile_plan

    plan = compile_plan(store, SERVICE)
    windowed = [
        (r.spec.join_keys, [n for n in plan.feature_names if n in r.spec.feature_names])
        for r in plan.windowed
    ]
    known = {name for _, names in windowed for name in names}
    rest = [name for name in plan.feature_names if name not in known]
    parts = np.array_split(np.array(rest), len(plan.plain))
    return [(k, n) for k, n in windowed if n] + [
        (tuple(r.join_keys), part.tolist()) for r, part in zip(plan.plain, parts, strict=True)
    ]


def write_reference(settings: RepoSettings, store: Any) -> None:
    """Compute the features of the payments that are compared, and write those of all per view."""
    rows = entity_rows(settings)
    compared = entity_rows(settings, COMPARED)
    known = store.get_historical_features(compared.to_pandas(), store.get_feature_service(SERVICE)).to_arrow()
    of_row = np.random.default_rng(3).integers(0, COMPARED, rows.num_rows)
    places = pc.index_in(compared.column(PAYMENT_KEY), rows.column(PAYMENT_KEY).combine_chunks()).to_numpy()
    of_answer = pc.index_in(known.column(PAYMENT_KEY), compared.column(PAYMENT_KEY).combine_chunks())
    answer = np.empty(COMPARED, np.int64)
    answer[of_answer.to_numpy()] = np.arange(COMPARED)
    of_row[places] = np.arange(COMPARED)
    made = known.take(pa.array(answer[of_row]))
    folder = settings.home / REFERENCE
    folder.mkdir()
    views = dealt(store)
    (folder / "views.json").write_text(json.dumps(views))
    for number, (keys, names) in enumerate(views):
        columns = {name: rows.column(name) for name in (*keys, "event_timestamp")}
        columns |= {name: made.column(name).cast(pa.float64()) for name in names}
        pq.write_table(pa.table(columns), folder / f"view_{number:02d}.parquet", compression="zstd")


def reference_store(settings: RepoSettings, kind: str) -> tuple[Any, list[str]]:
    """A Feast store of a `kind` (duckdb, dask) over the reference's files, and the references of all its features."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64
    from feast.value_type import ValueType

    folder = settings.home / REFERENCE
    views = json.loads((folder / "views.json").read_text())
    store = FeatureStore(
        config=RepoConfig(
            project=REFERENCE,
            provider="local",
            registry=str(folder / f"{kind}.db"),
            online_store=None,
            offline_store={"type": kind},
            entity_key_serialization_version=3,
        )
    )
    entities = {
        k: Entity(name=k, value_type=ValueType.STRING) for k in {k for keys, _ in views for k in keys}
    }
    made = [
        FeatureView(
            name=f"view_{number:02d}",
            entities=[entities[k] for k in keys],
            ttl=timedelta(0),
            schema=[Field(name=name, dtype=Float64) for name in names],
            source=FileSource(
                path=str(folder / f"view_{number:02d}.parquet"), timestamp_field="event_timestamp"
            ),
        )
        for number, (keys, names) in enumerate(views)
    ]
    store.apply([*entities.values(), *made])
    return store, [f"{view.name}:{field.name}" for view in made for field in view.features]


if __name__ == "__main__":
    build()
