"""Without features a model on the payment alone decides, if the champion has one and it is wanted; else rules."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from serving import bootstrap
from serving.api.requests import SMALLEST, Payment
from serving.models.fallback import Fallback
from serving.models.model import load_model
from tests.kits.served_model import VERSION, own_home, score_lines, world

NOWHERE = "redis://127.0.0.1:1/0"


def ask(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/score", json=world().payment(**changes)).json()
    assert answer["degraded"] is True
    assert answer["degraded_reasons"][0]["code"] == "store_unreachable"
    return answer


@pytest.mark.parametrize("kind", ["auto", "model"])
def test_the_fallback_model_decides_and_the_answer_says_so(kind: str, tmp_path: Path) -> None:
    home = own_home(tmp_path)
    trees = load_model(home / "models" / "fraud_detection" / VERSION, bootstrap.REPO).fallback
    assert trees is not None
    with world().scorer(home=home, redis_url=NOWHERE, fallback=kind) as client:
        small, large = ask(client, amount=1.0), ask(client, amount=50_000.0)
        for answer in (small, large):
            assert answer["decided_by"] == "fallback_model"
            assert answer["decision"] == trees.decide(answer["score"])
            assert answer["model"]["version"] == VERSION
        assert large["decision"] != "approve"
        assert large["reasons"][0]["feature"] == "payment_amount"
        assert large["score"] > small["score"]
        batch = client.post("/score/batch", json={"payments": [world().payment(amount=50_000.0)] * 2}).json()
        assert [a["score"] for a in batch["answers"]] == [large["score"]] * 2
        assert 'decided_by_total{by="fallback_model"}' in client.get("/metrics").text
    line = score_lines(home / "scores")[-1]
    assert (line["decided_by"], line["features"]) == ("fallback_model", {})


def test_its_features_are_those_of_the_training_set(tmp_path: Path) -> None:
    model = load_model(own_home(tmp_path) / "models" / "fraud_detection" / VERSION, bootstrap.REPO)
    trees = model.fallback
    assert trees is not None
    rows = world().vectors[list(trees.features)].to_numpy(np.float64, na_value=np.nan)[:50]
    for i, expected in enumerate(trees.predict(rows)):
        payment = world().payments.slice(2000 + i, 1).to_pylist()[0]
        when = int(payment["event_timestamp"].timestamp() * 1e6)
        named = model.reader.of_request(payment, when)
        assert {*named} >= {*trees.features}
        vector = np.array([np.nan if named[f] is None else named[f] for f in trees.features], np.float64)
        assert trees.predict(vector[None])[0] == expected


def test_rules_decide_if_configured_or_without_a_fallback_model(tmp_path: Path) -> None:
    with world().scorer(home=own_home(tmp_path), redis_url=NOWHERE, fallback="rules") as client:
        answer = ask(client, amount=1000.0, type="PAYMENT")
        assert (answer["decided_by"], answer["score"], answer["decision"]) == (
            "fallback_rules",
            None,
            "review",
        )
    home = tmp_path / "without"
    world().write_model(home / "models" / "fraud_detection", VERSION, fallback=None)
    for kind, ready in (("auto", True), ("model", False)):
        with world().scorer(home=home, fallback=kind) as client:
            checks = {c["name"]: c for c in client.get("/readyz").json()["checks"]}
            assert checks["model"]["ok"] is ready
            assert ("no fallback model" in checks["model"]["detail"]) is not ready
        with world().scorer(home=home, redis_url=NOWHERE, fallback=kind) as client:
            assert ask(client, amount=1000.0)["decided_by"] == "fallback_rules"


def test_rules_decide_when_the_fallback_model_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(own_home(tmp_path) / "models" / "fraud_detection" / VERSION, bootstrap.REPO)
    monkeypatch.setattr(model.reader, "of_request", lambda *_: 1 / 0)
    decided = Fallback(1.0, 0.9, None, "model").decide(model, Payment(**SMALLEST), {}, 0)
    assert (decided.by, decided.decision) == ("fallback_rules", "review")
