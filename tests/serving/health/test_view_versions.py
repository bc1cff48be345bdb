"""A scorer reads the version its model was trained on, or says that it cannot; Feast reads the applied one, or null."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_repo.errors import DefinitionError
from feature_repo.stores.redis_layout.keys import state_field, version_id
from feature_repo.stores.redis_layout.view_versions import mark_filled, publish
from feature_repo.windows.spec import ViewSpec
from tests.kits.served_model import own_home, world
from training.feature_matrix import FeastSource

FEATURE = "account_recent:account_payment_count_1h"


@pytest.fixture
def spec() -> Iterator[ViewSpec]:
    """The view the tests take away; everything is kept again afterwards."""
    w = world()
    specs = [read.spec for read in w.plan.windowed]
    yield next(s for s in specs if s.name == "account_recent")
    publish(w.client, w.plan.project, specs)
    mark_filled(w.client, w.plan.project, map(version_id, specs), 0, 1)


def others(spec: ViewSpec) -> list[ViewSpec]:
    return [read.spec for read in world().plan.windowed if read.spec != spec]


def test_retired_version_is_named_by_answer_and_readiness(tmp_path: Path, spec: ViewSpec) -> None:
    w = world()
    publish(w.client, w.plan.project, others(spec))
    with w.scorer(home=own_home(tmp_path)) as client:
        answers = [
            client.post("/score", json=w.payment()).json(),
            *client.post("/score/batch", json={"payments": [w.payment()]}).json()["answers"],
        ]
        for answer in answers:
            (reason,) = answer["degraded_reasons"]
            assert (answer["degraded"], answer["score"], reason["code"]) == (True, None, "state_mismatch")
            assert (
                f"version {version_id(spec).partition(':')[2]} of view 'account_recent'" in reason["detail"]
            )
            assert "(kept: none)" in reason["detail"]
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "is not kept online" in ready.json()["checks"][2]["detail"]


def test_version_that_is_not_filled_yet_is_not_taken_for_a_key_without_events(
    tmp_path: Path, spec: ViewSpec
) -> None:
    w = world()
    publish(w.client, w.plan.project, others(spec))
    publish(w.client, w.plan.project, [*others(spec), spec])
    with w.scorer(home=own_home(tmp_path)) as client:
        (reason,) = client.post("/score", json=w.payment()).json()["degraded_reasons"]
        assert "is kept but not filled yet (no part)" in reason["detail"]
        mark_filled(w.client, w.plan.project, [version_id(spec)], 0, 1)
        assert client.get("/readyz").status_code == 200  # asks at once
        assert not client.post("/score", json=w.payment()).json()["degraded"]


def test_feast_answers_null_where_only_another_version_has_a_state(spec: ViewSpec) -> None:
    w = world()
    row = {"account_id": "seen-by-another-version"}
    key = next(k for k, fields in _commands(row["account_id"]) if state_field(spec) in fields)
    with w.environment():
        assert _count(row) == 0  # no events: a count of nothing
        try:
            w.client.hset(key, "_ts:account_recent", b"\x08\x01")
            assert _count(row) is None
        finally:
            w.client.delete(key)


def test_plan_that_is_not_the_registry_s_any_more_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world()
    with w.environment():
        source = FeastSource(w.store, "fraud_detection_v1")
        source.save_plan(tmp_path / "plan.json")
        monkeypatch.setattr(source, "schema_hash", "0" * 64)  # as if the view had changed since
        with pytest.raises(DefinitionError, match="changed while the model was trained"):
            source.save_plan(tmp_path / "plan.json")


def _commands(account: str) -> list[tuple[bytes, list[bytes]]]:
    from feature_repo.stores.open_store import REPO
    from feature_repo.stores.reader.reader import Reader

    return Reader(world().plan, REPO).commands(world().payment(account_id=account))


def _count(row: dict[str, str]) -> object:
    return world().store.get_online_features([FEATURE], [row]).to_dict()["account_payment_count_1h"][0]
