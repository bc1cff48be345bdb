"""Whatever happens to store or model, every payment is answered in time, and the answer says what was missing."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from feature_repo.errors import OnlineStoreError
from flows.local.redis_server import EmbeddedServer
from serving.store.connection import StoreConnection, StoreTimeout, StoreUnreachable
from serving.store.resp import pack
from tests.kits.redis_server import suspended
from tests.kits.served_model import VERSION, own_home, score_lines, world

DEADLINE = 0.15
SLACK = 0.10
"""What a machine shared with other work may add; the limits themselves are far below the seconds an outage lasts."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """An empty server of one's own, to be mistreated."""
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


def ask(client: TestClient, **changes: Any) -> tuple[dict[str, Any], float]:
    began = time.perf_counter()
    response = client.post("/score", json=world().payment(**changes))
    seconds = time.perf_counter() - began
    assert response.status_code == 200
    return response.json(), seconds


def until_well(client: TestClient, seconds: float = 5.0) -> dict[str, Any]:
    give_up = time.monotonic() + seconds
    while True:
        answer, _ = ask(client)
        if not answer["degraded"]:
            return answer
        assert time.monotonic() < give_up, answer
        time.sleep(0.02)


def code(answer: dict[str, Any]) -> str:
    assert answer["degraded"] is True
    assert answer["score"] is None
    return str(answer["degraded_reasons"][0]["code"])


def test_frozen_store_costs_one_deadline_once_and_scoring_recovers_when_it_thaws(tmp_path: Path) -> None:
    with world().scorer(home=own_home(tmp_path)) as client:
        assert not ask(client)[0]["degraded"]
        with suspended(world().url):
            first, seconds = ask(client)
            assert code(first) == "store_timeout"
            assert seconds < DEADLINE + SLACK
            for _ in range(5):
                later, seconds = ask(client)
                assert code(later) == "store_unreachable"
                assert seconds < SLACK  # nobody waits again for a server known to be silent
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert [c["ok"] for c in ready.json()["checks"]] == [True, False, False]
            assert client.get("/healthz").status_code == 200
        assert until_well(client)["model"]["version"] == VERSION
    logged = [line for line in score_lines(tmp_path / "scores") if line["degraded"]]
    assert {line["degraded_reasons"][0]["code"] for line in logged} >= {"store_timeout", "store_unreachable"}
    assert all(line["features"] == {} and line["score"] is None for line in logged)


def test_killed_store_is_answered_at_once_and_its_successor_is_found(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    port = int(server.url.split(":")[2].split("/")[0])
    with world().scorer(home=own_home(tmp_path), redis_url=server.url) as client:
        assert not ask(client)[0]["degraded"]
        with contextlib.suppress(redis.ConnectionError):
            redis.Redis.from_url(server.url).shutdown(nosave=True, now=True, force=True)
        for _ in range(5):
            answer, seconds = ask(client)
            assert code(answer) == "store_unreachable"
            assert seconds < DEADLINE + SLACK
        batch = client.post("/score/batch", json={"payments": [world().payment()] * 3}).json()["answers"]
        assert [code(a) for a in batch] == ["store_unreachable"] * 3
        assert server._launch(port)
        until_well(client)
        give_up = time.monotonic() + 5
        while client.get("/readyz").status_code != 200:  # batches have a connection of their own
            assert time.monotonic() < give_up
            time.sleep(0.05)


def test_slow_store_is_answered_within_the_deadline(tmp_path: Path, server: EmbeddedServer) -> None:
    other = redis.Redis.from_url(server.url)
    with world().scorer(home=own_home(tmp_path), redis_url=server.url) as client:
        assert not ask(client)[0]["degraded"]
        other.execute_command("CLIENT", "PAUSE", "600", "ALL")
        answer, seconds = ask(client)
        assert code(answer) == "store_timeout"
        assert seconds < DEADLINE + SLACK
        until_well(client)


def test_a_scorer_starts_without_a_store_and_finds_it_later(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "server")
    url = server.start()
    port = int(url.split(":")[2].split("/")[0])
    server.stop()
    with world().scorer(home=own_home(tmp_path), redis_url=url) as client:
        assert code(ask(client)[0]) == "store_unreachable"
        server.start()
        redis.Redis.from_url(server.url).shutdown(nosave=True, now=True, force=True)
        assert server._launch(port)
        until_well(client)
    server.stop()


def test_a_server_that_refuses_the_connection_is_reported_with_its_message(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    redis.Redis.from_url(server.url).config_set("requirepass", "secret")
    with world().scorer(home=own_home(tmp_path), redis_url=server.url) as client:
        answer, _ = ask(client)
        assert code(answer) == "store_unreachable"
        assert "NOAUTH" in answer["degraded_reasons"][0]["detail"]
    with world().scorer(home=tmp_path, redis_url=server.url.replace("//", "//:secret@")) as client:
        assert not ask(client)[0]["degraded"]


def test_a_state_of_another_layout_is_degraded_and_named(tmp_path: Path) -> None:
    w = world()
    payment = w.payment(account_id="odd", merchant_id="odd")
    with w.scorer(home=own_home(tmp_path)) as client:
        reader = client.app.state.parts.champion.current.reader  # type: ignore[attr-defined]
        key, fields = reader.commands(payment)[0]
        field = next(f for f in fields if f.startswith(b"_state:account_recent:"))
        try:
            w.client.hset(key, field, b"\0" * 64)
            answer, _ = ask(client, account_id="odd", merchant_id="odd")
            assert code(answer) == "state_mismatch"
            assert "account_recent" in answer["degraded_reasons"][0]["detail"]
            batch = client.post("/score/batch", json={"payments": [w.payment(), payment]}).json()["answers"]
            assert [a["degraded"] for a in batch] == [False, True]  # its neighbours are not harmed
            w.client.delete(key)
            w.client.set(key, "not a hash")
            answer, _ = ask(client, account_id="odd", merchant_id="odd")
            assert code(answer) == "store_error"
            assert "WRONGTYPE" in answer["degraded_reasons"][0]["detail"]
        finally:
            w.client.delete(key)


def test_without_a_model_the_fallback_decides_by_its_limits(tmp_path: Path) -> None:
    with world().scorer(
        home=tmp_path,
        fallback_review_amount=500,
        fallback_decline_amount=9000,
        fallback_review_balance_share=0.8,
    ) as client:
        asked = {"amount": 499.0, "account_balance_before": 1000.0, "type": "PAYMENT"}
        answer, _ = ask(client, **asked)
        assert (code(answer), answer["model"], answer["decision"]) == ("no_model", None, "approve")
        assert "there is no champion" in answer["degraded_reasons"][0]["detail"]
        for changes, decision, column in (
            ({"amount": 500.0}, "review", "amount"),
            ({"amount": 80.0, "account_balance_before": 100.0}, "review", "account_balance_before"),
            ({"amount": 9000.0}, "decline", "amount"),
        ):
            answer, _ = ask(client, **(asked | changes))
            assert (answer["decision"], answer["reasons"][0]["feature"]) == (decision, column)
        assert ask(client, **(asked | {"amount": 9000.0, "type": "CASH_IN"}))[0]["decision"] == "approve"
        assert client.get("/model").status_code == 404
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "train a model" in ready.json()["checks"][0]["detail"].lower()


def test_a_batch_past_its_deadline_is_answered_by_the_fallback_for_the_rest(tmp_path: Path) -> None:
    with world().scorer(home=own_home(tmp_path), batch_deadline_ms=60, reserve_ms=5) as client:
        client.post("/score/batch", json={"payments": [world().payment()]})
        began = time.perf_counter()
        payments = [world().payment(i) for i in range(-1000, 0)]
        answers = client.post("/score/batch", json={"payments": payments}).json()["answers"]
        assert time.perf_counter() - began < 2
        assert len(answers) == 1000
        late = [a for a in answers if a["degraded"]]
        assert late
        assert {code(a) for a in late} <= {"deadline", "store_timeout"}


def test_many_requests_at_once_all_meet_the_deadline_when_the_store_freezes(server: EmbeddedServer) -> None:
    async def story() -> None:
        store = StoreConnection(server.url, "test")
        await store.start()
        ping = pack([[b"PING"]])
        assert await store.send(ping, 1, 1.0) == [b"PONG"]
        with suspended(server.url):
            began = time.perf_counter()
            got = await asyncio.gather(
                *(store.send(ping, 1, 0.14) for _ in range(200)), return_exceptions=True
            )
            assert time.perf_counter() - began < 0.14 + SLACK
            assert {type(e) for e in got} <= {StoreTimeout, StoreUnreachable}
        await asyncio.sleep(1.2)
        assert await store.send(ping, 1, 1.0) == [b"PONG"]
        await store.stop()

    asyncio.run(story())


def test_replies_to_a_request_that_timed_out_do_not_reach_the_next_one(server: EmbeddedServer) -> None:
    other = redis.Redis.from_url(server.url)
    other.set("slow", "1")

    async def story() -> None:
        store = StoreConnection(server.url, "test")
        await store.start()
        gave_up = asyncio.create_task(store.send(pack([[b"BLPOP", b"empty", b"0.2"]]), 1, 1.0))
        await asyncio.sleep(0.02)
        gave_up.cancel()
        got = await store.send(pack([[b"GET", b"slow"], [b"PING"]]), 2, 1.0)
        assert got == [b"1", b"PONG"]
        with pytest.raises(OnlineStoreError, match="unknown command"):
            await store.send(pack([[b"NONSENSE"]]), 1, 1.0)
        assert await store.send(pack([[b"PING"]]), 1, 1.0) == [b"PONG"]
        await store.stop()

    asyncio.run(story())
