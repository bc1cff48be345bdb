"""The scorer over HTTP, on a real store and a real model: its answers, and that they agree with Feast's own stores."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from feature_repo.errors import SettingsError
from feature_repo.redis_url import RedisAddress
from feature_repo.settings import PROJECT_ROOT, RepoSettings
from feature_repo.stores.clock import as_of, to_us
from serving import bootstrap, metrics
from serving.api.responses import Answer, BatchAnswer, ModelCard, Ready
from serving.app import create_app
from serving.models.model import load_model
from serving.outputs.score_log import ScoreLog
from serving.settings import ScorerSettings
from tests.kits.scorer_process import running_scorer
from tests.kits.served_model import SERVICE, VERSION, own_home, score_lines, world


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with world().scorer(home=own_home(tmp_path)) as client:
        yield client


def requests(n: int, seed: int = 0) -> list[dict[str, Any]]:
    return as_requests(world().recent(n, seed))


def as_requests(payments: pa.Table) -> list[dict[str, Any]]:
    rows = payments.to_pylist()
    for row in rows:
        row["event_timestamp"] = row["event_timestamp"].isoformat()
    return [{k: v for k, v in row.items() if v is not None} for row in rows]


def same(one: Any, other: Any) -> bool:
    one, other = (float("nan") if v is None else float(v) for v in (one, other))
    return one == other or (one != one and other != other)


def test_served_vector_is_the_online_and_the_historical_one_and_its_score_the_model_s(
    client: TestClient, tmp_path: Path
) -> None:
    w = world()
    rows = w.recent(40, seed=7)
    answers = [client.post("/score", json=r).json() for r in as_requests(rows)]
    assert not any(a["degraded"] or a["incomplete"] for a in answers)
    client.portal.call(client.app.state.parts.score_log.flush)  # type: ignore[union-attr]
    logged = {line["score_id"]: line for line in score_lines(tmp_path / "scores")}
    with w.environment():
        history = w.store.get_historical_features(rows.to_pandas(), w.service).to_df()
    model = load_model(tmp_path / "models" / "fraud_detection" / VERSION, bootstrap.REPO)
    for answer, row, expected in zip(answers, rows.to_pylist(), history.to_dict("records"), strict=True):
        line = logged[answer["score_id"]]
        keys = (*w.plan.entity_columns, *(name for name, _ in w.plan.request))
        with w.environment(), as_of(row["event_timestamp"]):
            online = w.store.get_online_features(w.service, [{k: row[k] for k in keys}]).to_dict()
        assert list(line["features"]) == list(w.plan.feature_names)
        for name, value in line["features"].items():
            assert same(value, expected[name]), (name, row)
            assert same(value, online[name][0]), (name, row)
        vector = pd.to_numeric(pd.Series(expected)[list(w.plan.feature_names)]).to_numpy(np.float64)
        assert answer["score"] == line["score"] == model.predict(vector[None])[0]
        assert answer["decision"] == model.decide(answer["score"])


def test_answers_have_the_documented_shape(client: TestClient) -> None:
    asked = requests(3)
    Answer.model_validate_json(client.post("/score", json=asked[0]).content)
    BatchAnswer.model_validate_json(client.post("/score/batch", json={"payments": asked}).content)
    ModelCard.model_validate_json(client.get("/model").content)
    Ready.model_validate_json(client.get("/readyz").content)
    assert client.get("/healthz").json() == {"status": "alive"}


def test_batch_equals_singles_in_order(client: TestClient) -> None:
    asked = requests(60, seed=3)
    singles = [client.post("/score", json=r).json() for r in asked]
    batch = client.post("/score/batch", json={"payments": asked}).json()["answers"]
    for single, other in zip(singles, batch, strict=True):
        assert {**single, "score_id": ""} == {**other, "score_id": ""}
    assert len({a["score_id"] for a in singles + batch}) == 120


def test_a_thousand_payments_are_one_read_of_the_store(client: TestClient) -> None:
    rounds = _count(client, 'millstream_scorer_store_seconds_count{lane="batch"}')
    got = client.post("/score/batch", json={"payments": requests(1000)})
    assert len(got.json()["answers"]) == 1000
    assert _count(client, 'millstream_scorer_store_seconds_count{lane="batch"}') == rounds + 1


def test_without_a_time_the_payment_is_scored_as_of_the_scorer_s_clock(tmp_path: Path) -> None:
    noon = datetime(2031, 3, 4, 12, 30, 0, 123456, tzinfo=UTC)
    settings = world().scorer_settings(home=own_home(tmp_path))
    with TestClient(create_app(lambda: bootstrap.build(settings, clock=lambda: to_us(noon)))) as client:
        asked = world().payment()
        del asked["event_timestamp"]
        got = client.post("/score", json=asked).json()
        assert got["as_of"] == "2031-03-04T12:30:00.123456Z"
        late = (noon + timedelta(seconds=301)).isoformat()
        refused = client.post("/score", json={**asked, "event_timestamp": late})
        assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "event_timestamp"])
        assert "ahead of the scorer's clock" in refused.json()["detail"][0]["msg"]
        batch = client.post("/score/batch", json={"payments": [asked, {**asked, "event_timestamp": late}]})
        assert batch.json()["detail"][0]["loc"] == ["body", "payments", 1, "event_timestamp"]


def test_a_payment_older_than_the_state_reaches_is_marked_incomplete(
    client: TestClient,
) -> None:
    got = client.post("/score", json=world().payment(1000)).json()
    assert "account_recent" in got["incomplete"]
    assert not got["degraded"]


def test_freshness_is_that_of_the_newest_event_of_the_payment_s_keys(client: TestClient) -> None:
    newest = world().payments["event_timestamp"][-1].as_py()
    asked = world().payment(event_timestamp=(newest + timedelta(seconds=2)).isoformat())
    freshness = client.post("/score", json=asked).json()["features_freshness"]
    assert (datetime.fromisoformat(freshness["newest_event_timestamp"]), freshness["age_seconds"]) == (
        newest,
        2.0,
    )
    asked |= {"account_id": "nobody", "merchant_id": "nowhere"}
    freshness = client.post("/score", json=asked).json()["features_freshness"]
    assert freshness == {"newest_event_timestamp": None, "age_seconds": None}


def test_reasons_explain_reviews_and_declines_and_nothing_else(client: TestClient) -> None:
    answers = client.post("/score/batch", json={"payments": requests(300)}).json()["answers"]
    assert {a["decision"] for a in answers} == {"approve", "review", "decline"}
    for answer in answers:
        effects = [r["effect"] for r in answer["reasons"]]
        if answer["decision"] == "approve":
            assert effects == []
        else:
            assert 1 <= len(effects) <= 5
            assert effects == sorted(effects, reverse=True)
            assert effects[-1] > 0
    declined = next(a for a in answers if a["decision"] == "decline")
    assert declined["reasons"][0]["feature"] == "payment_amount"  # what its labels were made from


def test_score_log_holds_every_answer_and_all_that_its_vector_was_made_of(tmp_path: Path) -> None:
    asked = requests(50, seed=9)
    home = own_home(tmp_path)
    for _ in range(2):
        with world().scorer(home=home) as client:
            answers = [client.post("/score", json=r).json() for r in asked[:25]]
            answers += client.post("/score/batch", json={"payments": asked[25:]}).json()["answers"]
    lines = score_lines(home / "scores")
    assert len(list((home / "scores").glob("*.jsonl"))) == 2  # one per start
    assert len(lines) == 100
    by_id = {line["score_id"]: line for line in lines}
    for answer, request in zip(answers, asked, strict=True):
        line = by_id[answer["score_id"]]
        when = to_us(datetime.fromisoformat(request["event_timestamp"]))
        assert {k: line[k] for k in request} == {**request, "event_timestamp": when}
        assert (line["as_of"], line["score"], line["decision"]) == (when, answer["score"], answer["decision"])
        assert (line["model_version"], line["degraded"]) == (VERSION, False)
        assert set(line["versions"]) == {r.spec.name for r in world().plan.windowed}
        assert line["flags"] == {"incomplete": answer["incomplete"], "capped": answer["capped"]}
        assert abs(line["scored_at"] - time.time() * 1e6) < 120e6


def test_score_log_can_be_switched_off_and_drops_lines_instead_of_waiting(tmp_path: Path) -> None:
    with world().scorer(home=own_home(tmp_path / "off"), score_log=False) as client:
        assert client.post("/score", json=world().payment()).status_code == 200
    assert not (tmp_path / "off" / "scores").exists()
    home = own_home(tmp_path / "full")
    with world().scorer(home=home, score_log_buffer=3, score_log_flush_ms=60_000) as client:
        dropped = _count(client, 'millstream_scorer_log_dropped_total{reason="full"}')
        for request in requests(5):
            assert client.post("/score", json=request).status_code == 200
        assert _count(client, 'millstream_scorer_log_dropped_total{reason="full"}') == dropped + 2
    assert len(score_lines(home / "scores")) == 3
    (tmp_path / "unwritable").mkdir()
    home = own_home(tmp_path / "unwritable")
    (home / "scores").write_text("a file where the folder should be")
    with world().scorer(home=home) as client:
        assert client.post("/score", json=world().payment()).status_code == 200


def test_score_log_on_a_full_disk_has_whole_lines_only(tmp_path: Path) -> None:
    log = ScoreLog(tmp_path, datetime.now(UTC), flush_seconds=1.0, buffer=10)
    log._write([b'{"n": 0}\n'])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(b'{"n": 0}\n') + 4, hard))
    try:
        with capture_logs() as said:  # the limit is for the terminal's file, too
            log._write([b'{"n": 1}\n', b'{"n": 2}\n'])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [line["event"] for line in said] == ["score_log.unwritable"]
    log._write([b'{"n": 3}\n'])
    assert [line["n"] for line in score_lines(tmp_path)] == [0, 3]


def _count(client: TestClient, name: str) -> float:
    lines = [x for x in client.get("/metrics").text.splitlines() if x.startswith(name)]
    return float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0


def test_metrics_are_those_of_the_catalogue(client: TestClient) -> None:
    client.post("/score", json=world().payment())
    text = client.get("/metrics").text
    helped = {
        line.split(" ", 3)[2]: line.split(" ", 3)[3]
        for line in text.splitlines()
        if line.startswith("# HELP")
    }
    for metric in metrics.CATALOGUE.values():
        assert helped[metric.name] == metric.meaning
    assert 'millstream_scorer_requests_total{route="/score",status="200"}' in text
    assert f'millstream_scorer_model_info{{name="fraud_detection",version="{VERSION}"}} 1.0' in text


def test_ready_while_bus_payments_become_readable_and_not_when_the_flow_has_stopped(tmp_path: Path) -> None:
    w = world()
    asked = [w.payment(-1 - i) for i in range(12)]
    stream = "millstream:payments:2"
    old = int(time.time() * 1000) - 60_000
    try:
        for i, payment in enumerate(asked):
            w.client.xadd(stream, {"v": json.dumps(payment)}, id=f"{old}-{i + 1}")
        with w.scorer(home=own_home(tmp_path)) as client:
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["ready"]) == (200, True)
            assert "12 of the last 12" in ready.json()["checks"][2]["detail"]
            w.client.xadd(stream, {"v": "no payment"}, id=f"{old}-99")
            assert client.get("/readyz").status_code == 200  # a dead letter is nobody's delay
            now = datetime.now(UTC).isoformat()
            unfolded = json.dumps({**asked[0], "event_timestamp": now})
            for i in range(20):  # accepted 50 s ago
                w.client.xadd(stream, {"v": unfolded}, id=f"{old + 10_000}-{i + 1}")
            stale = client.get("/readyz")
            assert (stale.status_code, stale.json()["ready"]) == (503, False)
            assert [c["ok"] for c in stale.json()["checks"]] == [True, True, False]
            assert "16 of 16 on millstream:payments:2" in stale.json()["checks"][2]["detail"]
    finally:
        w.client.delete(stream)


def test_uvicorn_serves_the_module_level_app_and_logs_its_answers_when_stopped(tmp_path: Path) -> None:
    home = own_home(tmp_path)
    with running_scorer(home, world().url) as address, httpx2.Client(base_url=address) as client:
        assert client.post("/score", json=world().payment()).json()["degraded"] is False
        assert client.get("/readyz").status_code == 200
        assert "swagger" in client.get("/docs").text
        assert client.get("/openapi.json").json()["info"]["title"] == "Millstream scorer"
        assert client.post("/score", content=b"{").status_code == 422
        assert client.get("/model").json()["service"] == SERVICE
    assert len(score_lines(home / "scores")) == 1
    assert "GET /readyz" not in (home / "uvicorn.log").read_text()  # no line per request, unless asked for


def test_scoring_never_imports_feast(tmp_path: Path) -> None:
    home = own_home(tmp_path)
    code = """
import sys
from starlette.testclient import TestClient
from serving.app import app
assert "feast" not in sys.modules
with TestClient(app) as client:
    assert client.post("/score", json=PAYMENT).json()["degraded"] is False
heavy = {"feast", "xgboost", "duckdb", "great_expectations", "bytewax", "flows", "training"} & set(sys.modules)
assert not heavy, heavy
""".replace("PAYMENT", repr(world().payment()))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PATH": "/usr/bin",
            "MILLSTREAM_HOME": str(home),
            "REDIS_URL": world().url,
            "MILLSTREAM_DEADLINE_MS": "5000",
            "MILLSTREAM_PSEUDONYM_KEY": "off",
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT_ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_every_setting_and_metric_is_documented() -> None:
    text = (PROJECT_ROOT / "docs" / "serving.md").read_text()
    for name, field in ScorerSettings.model_fields.items():
        if name not in RepoSettings.model_fields:
            assert f"| `MILLSTREAM_{name.upper()}` |" in text
            assert f"| {field.description} |" in text
    for metric in metrics.CATALOGUE.values():
        assert f"| `{metric.name}` | {metric.kind} |" in text
        assert f"| {metric.meaning} |" in text


def test_settings_that_leave_the_store_no_time_are_refused() -> None:
    with pytest.raises(SettingsError, match="nothing is left for the store"):
        ScorerSettings(deadline_ms=10, reserve_ms=10)
    with pytest.raises(SettingsError, match="not a Redis URL"):
        RedisAddress.parse("http://127.0.0.1")


def test_a_redis_url_is_read_with_user_password_database_and_tls() -> None:
    address = RedisAddress.parse("rediss://us%40er:pa%3Ass@db.local/3?ssl_cert_reqs=none")
    assert (address.user, address.password, address.port, address.db) == ("us@er", "pa:ss", 6379, 3)
    assert address.handshake == [[b"AUTH", b"us@er", b"pa:ss"], [b"SELECT", b"3"], [b"PING"]]
    assert address.tls_context is not None
    assert "pa:ss" not in f"{address} {address!r}"
    assert RedisAddress.parse("unix:///run/valkey.sock?db=2").path == "/run/valkey.sock"
