"""A home to measure serving on: a month of payments through the flows, and a champion of the project's usual size.

It is built once (a minute or two) under `var/bench/` and used by the benchmarks of online reads, score and start. It
is built again when the sources of the feature repo have changed, or when its history ends more than `FRESH_S` ago,
because states leave the online store some time after their last event. It is built as a user would: generated history,
`feast apply`, backfill. The model is trained on the offline store's answer for a sample of the payments, without
tuning and reports.

    python -m bench.home          build it, or print where it is
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from bench.harness import console
from feature_repo.settings import PROJECT_ROOT

HOME: Final = PROJECT_ROOT / "var" / "bench" / "home"
MARK: Final = HOME / "built.json"
KEY: Final = "bench:" + base64.b64encode(bytes(range(32))).decode()
"""Pseudonyms are on, with a key that protects nothing: this world is generated."""
FRESH_S: Final = 6 * 3600.0
SERVICE: Final = "fraud_detection_v3"
MODEL: Final = "fraud_detection"
PAYMENTS, ACCOUNTS, MERCHANTS = 45_000, 1_000, 100  # a fifth of the demo: the same number of events a key
TREES, DEPTH, TRAINED_ON = 300, 6, 10_000
REQUESTS: Final = 1_000


@dataclass(frozen=True)
class Built:
    """The home's folder and its champion's."""

    home: Path
    artefact: Path

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Payments as a client sends them, of the last 30 s of the history."""
        sent: list[dict[str, Any]] = orjson.loads((self.home / "requests.json").read_bytes())
        return sent

    @property
    def expected(self) -> npt.NDArray[np.float64]:
        """[requests, features]: the vectors of these requests as the offline store has them."""
        vectors: npt.NDArray[np.float64] = np.load(self.home / "expected.npy")
        return vectors


def environment(url: str) -> dict[str, str]:
    """The environment of a process on this home, without the shell's own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MILLSTREAM_", "PROMETHEUS_"))}
    return kept | {"MILLSTREAM_HOME": str(HOME), "MILLSTREAM_PSEUDONYM_KEY": KEY, "REDIS_URL": url}


@contextmanager
def served() -> Iterator[tuple[Built, str]]:
    """The home with its server running; home, key and server become the settings of this process."""
    from flows.local.redis_server import EmbeddedServer

    built = prepared()
    with EmbeddedServer(HOME) as server:
        os.environ.update(environment(server.url))
        yield built, server.url


def prepared() -> Built:
    """The home; it is built first if none is valid."""
    mark = json.loads(MARK.read_text()) if MARK.exists() else {}
    if mark.get("sources") != _sources() or time.time() - mark.get("ends", 0.0) > FRESH_S:
        console.print(f"building a home for the serving benchmarks in {HOME} (a minute or two) ...")
        subprocess.run([sys.executable, "-m", "bench.home", "--build"], check=True, cwd=PROJECT_ROOT)
        mark = json.loads(MARK.read_text())
    return Built(HOME, HOME / "models" / MODEL / mark["version"])


def _sources() -> str:
    """A hash that changes with the definitions, the layout of states and the size of this home."""
    repo = PROJECT_ROOT / "feature_repo"
    files = [
        path
        for folder in ("views", "on_demand", "enrichment", "schemas")
        for path in sorted((repo / folder).rglob("*.py"))
    ]
    files += [
        repo / name
        for name in ("services.py", "sources.py", "entities.py", "windows/layout.py", "windows/spec.py")
    ]
    files.append(Path(__file__))  # what builds it, and how large
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def build() -> None:
    """Build the home; runs in a process of its own because of all that Feast imports."""
    import structlog

    from flows.local import stages
    from flows.local.processes import Processes
    from flows.local.redis_server import EmbeddedServer
    from flows.local.show import Steps
    from flows.settings import FlowSettings

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    steps, now = Steps(console), datetime.now(UTC)
    with EmbeddedServer(HOME) as server:
        os.environ.update(environment(server.url))
        settings = FlowSettings(home=HOME, redis_url=server.url, source_files="")
        with Processes(HOME, server.url) as processes:
            began = stages.begin_apply(processes)
            scale = stages.Scale(PAYMENTS, ACCOUNTS, MERCHANTS, fraud_share=0.02)
            stages.generate(steps, scale, HOME / "generated", now)
            stages.end_apply(processes, steps, settings, began)
        with steps.step("requests", "Payments to be scored"):
            _add_requests(settings)
        stages.backfill(steps, settings, HOME / "generated")
        with steps.step("train", "Train a champion") as step:
            version, step.found = _train(settings)
        with steps.step("answers", "Their vectors, offline"):
            _answer_requests(settings)
    MARK.write_text(json.dumps({"sources": _sources(), "ends": now.timestamp(), "version": version}))


def _train(settings: Any) -> tuple[str, str]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import xgboost as xgb

    from feature_repo.stores.open_store import open_store
    from feature_repo.stores.reader.plan import compile_plan
    from training import artefact, export

    log = pa.concat_tables([pq.read_table(path) for path in sorted(settings.payments_log.glob("*.parquet"))])
    log = log.take(np.sort(np.random.default_rng(1).permutation(log.num_rows)[:TRAINED_ON]))
    log = log.append_column("payment_id", log["event_id"])
    labels = pa.concat_tables([pq.read_table(path) for path in sorted(settings.labels_log.glob("*.parquet"))])
    frauds = labels.filter(labels["is_fraud"])["payment_id"].combine_chunks()
    target = pc.is_in(log["event_id"], frauds.unique()).to_numpy().astype(np.float32)
    store = open_store(settings)
    plan = compile_plan(store, SERVICE)
    request = [name for name, _ in plan.request]
    wanted = dict.fromkeys(["event_timestamp", "payment_id", *plan.entity_columns, *request])
    rows = log.select(list(wanted)).to_pandas()
    vectors = store.get_historical_features(rows, store.get_feature_service(SERVICE)).to_df()
    matrix = vectors[list(plan.feature_names)].to_numpy(np.float64, na_value=np.nan).astype(np.float32)
    parameters = {"max_depth": DEPTH, "objective": "binary:logistic", "base_score": 0.5, "eta": 0.05}
    parameters |= {"min_child_weight": 0.1, "subsample": 0.8, "colsample_bytree": 0.5, "seed": 1}
    data = xgb.DMatrix(matrix, target, feature_names=list(plan.feature_names))
    booster = xgb.train(parameters, data, TREES)
    exported = export.export(booster, matrix)
    scores = export.predict(exported.onnx, matrix)
    created = datetime.now(UTC)
    version = artefact.new_version(created, exported.onnx)
    manifest = {
        "name": MODEL,
        "created": created.isoformat(),
        "service": SERVICE,
        "schema_hash": plan.schema_hash,
        "features": list(plan.feature_names),
        "onnx": {"input": export.INPUT, "output": export.OUTPUT, "fraud_column": 1},
        "threshold": {
            "review": float(np.quantile(scores, 0.98)),
            "decline": float(np.quantile(scores, 0.99)),
        },
        "typical": {
            n: None if np.isnan(m) else float(m)
            for n, m in zip(plan.feature_names, np.nanmedian(matrix, 0), strict=True)
        },
        "metrics": {},
        "data": {"rows": len(matrix)},
        "golden": export.golden(exported.onnx, matrix, scores),
    }

    def fill(building: Path) -> None:
        (building / "model.onnx").write_bytes(exported.onnx)
        (building / "model.ubj").write_bytes(bytes(booster.save_raw("ubj")))
        np.save(building / "rows.npy", matrix[:2000])
        plan.save(building / "plan.json")

    artefact.write(settings.models / MODEL, version, manifest, fill)
    artefact.promote(settings.models / MODEL, version)
    nodes = sum(tree.count(":") for tree in booster.get_dump())
    return (
        version,
        f"{TREES} trees, {nodes:,} nodes, {len(plan.feature_names)} features, {int(target.sum()):,} frauds of {len(target):,}",
    )


def _add_requests(settings: Any) -> None:
    """End the history with the payments that will be scored: some of its last quarter, repeated within 30 s.

    So they are in the log and in the states when they are scored, as a payment is some milliseconds after: each counts
    for those after it, whoever looks, and a round of requests finds what the one before found.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from feature_repo.streams.payments import PAYMENTS

    generated = settings.home / "generated"
    payments = pq.read_table(generated / "payments.parquet", schema=PAYMENTS.schema)
    rng = np.random.default_rng(7)
    first = payments.num_rows * 3 // 4
    drawn = payments.take(np.sort(rng.choice(np.arange(first, payments.num_rows), REQUESTS, replace=False)))
    end = payments["event_timestamp"][-1].cast(pa.int64()).as_py()
    times = pa.array(end + np.sort(rng.integers(1, 30_000_000, REQUESTS)), pa.timestamp("us", "UTC"))
    made = {"event_timestamp": times, "event_id": pc.binary_join_element_wise("r", drawn["event_id"], "-")}
    for name, values in made.items():
        drawn = drawn.set_column(drawn.schema.get_field_index(name), PAYMENTS.schema.field(name), values)
    pq.write_table(pa.concat_tables([payments, drawn.cast(PAYMENTS.schema)]), generated / "payments.parquet")
    sent = [{k: v for k, v in row.items() if v is not None} for row in drawn.to_pylist()]
    (settings.home / "requests.json").write_bytes(orjson.dumps(sent, option=orjson.OPT_UTC_Z))


def _answer_requests(settings: Any) -> None:
    """The vectors of the requests, by the offline store."""
    import numpy as np
    import pyarrow as pa

    from feature_repo import privacy
    from feature_repo.stores.open_store import open_store
    from feature_repo.stores.reader.plan import compile_plan
    from feature_repo.streams.payments import PAYMENTS

    requests = orjson.loads((settings.home / "requests.json").read_bytes())
    pseudonyms = privacy.of_settings(settings)
    for row in requests:
        row["event_timestamp"] = datetime.fromisoformat(row["event_timestamp"])
        row |= {
            column: pseudonyms.of(row[column], privacy.domain_of(column, how))
            for column, how in PAYMENTS.personal.items()
        }
    sent = pa.Table.from_pylist(requests, schema=PAYMENTS.schema)
    store = open_store(settings)
    plan = compile_plan(store, SERVICE)
    rows = sent.append_column("payment_id", sent["event_id"]).to_pandas()
    rows["at"] = range(REQUESTS)
    made = store.get_historical_features(rows, store.get_feature_service(SERVICE)).to_df().sort_values("at")
    np.save(
        settings.home / "expected.npy", made[list(plan.feature_names)].to_numpy(np.float64, na_value=np.nan)
    )


if __name__ == "__main__":
    if "--build" in sys.argv:
        build()
    console.print(f"{prepared().home}")
