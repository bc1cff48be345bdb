"""For tests of the scorer: an applied repo with 4,000 folded payments, a small real model, and a server."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import redis
import xgboost as xgb
from starlette.testclient import TestClient

from feature_repo.settings import RepoSettings
from feature_repo.stores.open_store import open_store
from feature_repo.stores.reader.plan import compile_plan
from flows.generate.history import generate
from flows.local.redis_server import EmbeddedServer
from serving import bootstrap
from serving.app import create_app
from serving.settings import ScorerSettings
from tests.kits.applied_home import feast, log_payments, project
from training import artefact, export

SERVICE = "fraud_detection_v1"
VERSION = "20261122T041955Z-00000001"


class World:
    """Payments of the last 20 days, logged and folded, and a model trained on random labels of the large ones."""

    def __init__(self, home: Path) -> None:
        self.server = EmbeddedServer(home)
        self.server.start()
        atexit.register(self.server.stop)
        self.url = self.server.url
        self.home = home
        self.settings = RepoSettings(home=home, redis_url=self.url)
        with self.environment():
            feast(self.settings, "apply")
            start = datetime.now(UTC) - timedelta(days=20)
            self.payments = generate(3, start, days=20, accounts=120, merchants=25, payments=4000).payments
            log_payments(self.settings, self.payments)
            project(self.settings, self.payments)
            self.store = open_store(self.settings)
            self.service = self.store.get_feature_service(SERVICE)
            self.plan = compile_plan(self.store, SERVICE)
            rows = self.payments.slice(2000, 600).to_pandas()
            self.vectors = self.store.get_historical_features(rows, self.service).to_df()
        self.client = redis.Redis.from_url(self.url)
        self.write_model(home / "models" / "fraud_detection", VERSION)

    def environment(self) -> contextlib.AbstractContextManager[None]:
        """Let Feast's stores of this process use this home and server."""
        return _environment(MILLSTREAM_HOME=str(self.home), REDIS_URL=self.url)

    def write_model(self, folder: Path, version: str, *, rounds: int = 20, **changes: Any) -> Path:
        """Train a small model and a fallback model on the payment alone, and write both as training does."""
        matrix = self.vectors[list(self.plan.feature_names)].to_numpy(np.float64, na_value=np.nan)
        matrix = matrix.astype(np.float32)
        rng = np.random.default_rng(1)
        amounts = matrix[:, self.plan.feature_names.index("payment_amount")]
        target = (amounts > np.quantile(amounts, 0.8)) & (rng.random(len(amounts)) < 0.8)
        booster = xgb.train(
            {"max_depth": 3, "objective": "binary:logistic", "base_score": 0.5, "nthread": 1},
            xgb.DMatrix(matrix, target, feature_names=list(self.plan.feature_names)),
            rounds,
        )
        exported = export.export(booster, matrix)
        places = [self.plan.feature_names.index(name) for name in self.plan.of_request]
        alone = xgb.train(
            {"max_depth": 3, "objective": "binary:logistic", "base_score": 0.5, "nthread": 1},
            xgb.DMatrix(matrix[:, places], target, feature_names=list(self.plan.of_request)),
            rounds,
        )
        fallback = export.export(alone, matrix[:, places])
        manifest = {
            "name": "fraud_detection",
            "created": "2026-11-22T04:19:55+00:00",
            "service": SERVICE,
            "schema_hash": self.plan.schema_hash,
            "metrics": {"average_precision": {"value": 0.5}},
            "data": {"label_delay_days": 3},
            **_manifest_part(exported.onnx, matrix, self.plan.feature_names),
            "fallback": {
                "file": "fallback.onnx",
                **_manifest_part(fallback.onnx, matrix[:, places], self.plan.of_request),
            },
        }

        def fill(building: Path) -> None:
            (building / "model.onnx").write_bytes(exported.onnx)
            (building / "model.ubj").write_bytes(bytes(booster.save_raw("ubj")))
            (building / "fallback.onnx").write_bytes(fallback.onnx)
            self.plan.save(building / "plan.json")

        written = artefact.write(folder, version, {**manifest, **changes}, fill)
        artefact.promote(folder, version)
        return written

    def scorer_settings(self, **changes: Any) -> ScorerSettings:
        return ScorerSettings(
            **{
                "home": self.home,
                "redis_url": self.url,
                "score_log_flush_ms": 20,
                "model_poll_seconds": 0,
                "pending_seconds": 0,  # what is scored here is not logged, so it must not count for what is scored later
                "fallback": "rules",
            }
            | changes
        )

    @contextlib.contextmanager
    def scorer(self, **changes: Any) -> Iterator[TestClient]:
        """Run a scorer in this process."""
        settings = self.scorer_settings(**changes)
        with TestClient(create_app(lambda: bootstrap.build(settings))) as client:
            yield client

    def payment(self, at: int = -1, **changes: Any) -> dict[str, Any]:
        """A logged payment as a request, by default the newest."""
        row = self.payments.slice(at % self.payments.num_rows, 1).to_pylist()[0]
        row["event_timestamp"] = row["event_timestamp"].isoformat().replace("+00:00", "Z")
        return {k: v for k, v in (row | changes).items() if v is not None}

    def recent(self, n: int, seed: int = 0) -> pa.Table:
        """`n` payments at random times around and after the end of the log, where states answer exactly."""
        rng = np.random.default_rng(seed)
        table = self.payments.take(rng.integers(0, self.payments.num_rows, n))
        end = self.payments["event_timestamp"][-1].as_py()
        now = datetime.now(UTC)
        span = int((now - end).total_seconds() * 1e6)
        times = [end + timedelta(microseconds=int(us)) for us in rng.integers(-300_000_000, max(span, 1), n)]
        at = table.schema.get_field_index("event_timestamp")
        return table.set_column(at, "event_timestamp", pa.array(times, pa.timestamp("us", "UTC")))


def _manifest_part(onnx: bytes, rows: Any, features: Sequence[str]) -> dict[str, Any]:
    """The part of a manifest that describes one model."""
    scores = export.predict(onnx, rows)
    above = scores[
        scores > scores.min()
    ].min()  # in some worlds most payments share the lowest score: it is approved
    return {
        "features": list(features),
        "onnx": {"input": export.INPUT, "output": export.OUTPUT, "fraud_column": 1},
        "threshold": {
            "review": float(max(np.quantile(scores, 0.7), above)),
            "decline": float(max(np.quantile(scores, 0.95), above)),
        },
        "golden": export.golden(onnx, rows, scores),
    }


@functools.cache
def world() -> World:
    """The world that all test modules of this process share."""
    home = Path(tempfile.mkdtemp(prefix="millstream-serving-"))
    atexit.register(shutil.rmtree, home, True)
    return World(home)


def score_lines(folder: Path) -> list[dict[str, Any]]:
    """All lines of a score log."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.open()]


def own_home(root: Path) -> Path:
    """Make `root` a home with the world's model and a score log of its own."""
    shutil.copytree(world().home / "models", root / "models")
    return root


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
