"""Passwords, users and TLS of the Redis server: the rights docs/security.md gives are enough, and no more than said."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from feature_repo.errors import OnlineStoreError
from feature_repo.settings import PROJECT_ROOT
from flows.local.redis_server import EmbeddedServer
from flows.settings import FlowSettings
from serving.store.connection import StoreConnection
from serving.store.resp import pack
from tests.kits.certificates import write_certificate
from tests.kits.flow_output import states_from_log, states_online
from tests.kits.flow_process import running_flow
from tests.kits.payments import encoded, payment, publish
from tests.kits.tls_proxy import tls_in_front_of
from tests.kits.views import apply_views

PASSWORD = "pa:ss/w@rd"
QUOTED = "pa%3Ass%2Fw%40rd"
EVENTS = 400


def documented() -> dict[str, list[str]]:
    """The rights of every user, as docs/security.md has them typed."""
    text = (PROJECT_ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    found = {}
    for user, rights in re.findall(r"^ACL SETUSER (\w+) (reset on >secret .*)$", text, re.MULTILINE):
        words = re.findall(r"\([^)]*\)|\S+", rights)
        found[user] = [f">{PASSWORD}" if word == ">secret" else word for word in words]
    return found


def as_user(url: str, user: str) -> str:
    return url.replace("redis://", f"redis://{user}:{QUOTED}@")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A server with the documented users; the client may do everything."""
    with EmbeddedServer(tmp_path_factory.mktemp("guarded")) as running:
        client = redis.Redis.from_url(running.url)
        for user, rights in documented().items():
            client.execute_command("ACL", "SETUSER", user, *rights)
        yield client
        client.close()


def url_of(client: redis.Redis) -> str:
    options = client.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/0"


@pytest.fixture(scope="module")
def tls(server: redis.Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Port and authority of the same server over TLS."""
    pem = write_certificate(tmp_path_factory.mktemp("tls") / "server.pem")
    port = urlsplit(url_of(server)).port
    assert port is not None
    with tls_in_front_of(port, pem) as outer:
        yield outer, pem


def test_the_documented_rights_are_what_each_process_needs_over_tls(
    server: redis.Redis, tls: tuple[int, Path], home: Path
) -> None:
    """The producer fills the bus, the flow folds it, the scorer reads what it wrote: each as its own user."""
    port, pem = tls
    secure = f"rediss://flow:{QUOTED}@127.0.0.1:{port}/0?ssl_ca_certs={pem}"
    settings = FlowSettings(redis_url=secure, epoch_ms=100, key_shards=2, recovery_partitions=2)
    apply_views(settings)
    with running_flow(settings) as flow:
        with redis.Redis.from_url(as_user(url_of(server), "producer")) as producer:
            publish(producer, [encoded(payment(n)) for n in range(EVENTS)])
        flow.wait_for_events(EVENTS, 180)
    expected = states_from_log(settings, server)
    assert states_online(server) == expected
    key, states = next(iter(expected.items()))

    async def read() -> None:
        store = StoreConnection(secure.replace("flow:", "scorer:"), "test")
        await store.start(5.0)
        (names,) = await store.send(pack([[b"HKEYS", key]]), 1, 5.0)
        (fields,) = await store.send(pack([[b"HMGET", key, *names]]), 1, 5.0)
        assert set(states) <= set(fields)
        for forbidden in (
            [b"HSET", key, b"f", b"v"],
            [b"KEYS", b"*"],
            [b"GET", b"other"],
            [b"CONFIG", b"GET", b"*"],
        ):
            with pytest.raises(OnlineStoreError, match="NOPERM") as refused:
                await store.send(pack([forbidden]), 1, 5.0)
            assert PASSWORD not in str(refused.value)
        await store.stop()

    asyncio.run(read())


def test_an_untrusted_server_and_a_wrong_password_are_refused_without_showing_the_password(
    server: redis.Redis, tls: tuple[int, Path]
) -> None:
    async def refusal(url: str) -> str:
        store = StoreConnection(url, "test")
        await store.start(0.3)
        with pytest.raises(OnlineStoreError) as refused:
            await store.send(pack([[b"PING"]]), 1, 1.0)
        await store.stop()
        return str(refused.value)

    said = asyncio.run(refusal(f"rediss://scorer:{QUOTED}@127.0.0.1:{tls[0]}/0"))
    assert "certificate" in said.lower()
    wrong = asyncio.run(refusal(as_user(url_of(server), "scorer").replace(QUOTED, "hunter2")))
    assert "WRONGPASS" in wrong
    for secret in (QUOTED, PASSWORD, "hunter2"):
        assert secret not in said + wrong


FEATURE = (
    "\x01\x00\x00\x00\x02\x00\x00\x00\x0a\x00\x00\x00account_id\x02\x00\x00\x00\x02\x00\x00\x00a1millstream"
)


@pytest.mark.parametrize(
    ("user", "command", "allowed"),
    [
        ("scorer", ["HMGET", FEATURE, "f"], True),
        ("scorer", ["HKEYS", "millstream:versions:millstream"], True),
        ("scorer", ["XREVRANGE", "millstream:payments:0", "+", "-"], True),
        ("scorer", ["ZADD", "millstream:pending:millstream:account_id:a1", "1", "m"], True),
        ("scorer", ["ZRANGE", "millstream:pending:millstream:account_id:a1", "0", "-1"], True),
        ("scorer", ["ZREM", "millstream:pending:millstream:account_id:a1", "m"], True),
        ("scorer", ["ZREMRANGEBYSCORE", "millstream:pending:millstream:account_id:a1", "-inf", "1"], True),
        ("scorer", ["PEXPIRE", "millstream:pending:millstream:account_id:a1", "1"], True),
        ("scorer", ["HSET", FEATURE, "f", "v"], False),
        ("scorer", ["HMGET", "somebody:else", "f"], False),
        ("scorer", ["HMGET", "millstream:customers:0", "f"], False),
        ("scorer", ["XADD", "millstream:payments:0", "*", "v", "1"], False),
        ("scorer", ["ZADD", "millstream:payments:0", "1", "m"], False),
        ("scorer", ["ZADD", FEATURE, "1", "m"], False),
        ("scorer", ["DEL", FEATURE], False),
        ("scorer", ["SCAN", "0"], False),
        ("scorer", ["MONITOR"], False),
        ("scorer", ["EVAL", "return 1", "0"], False),
        ("scorer", ["ACL", "LIST"], False),
        ("flow", ["XTRIM", "millstream:payments:0", "MINID", "1-0"], True),
        ("flow", ["EXPIRE", FEATURE, "1"], True),
        ("flow", ["PERSIST", FEATURE], True),
        ("flow", ["HDEL", "millstream:projected:millstream", "v"], True),
        ("flow", ["HGET", "somebody:else", "f"], False),
        ("flow", ["FLUSHALL"], False),
        ("flow", ["DEL", FEATURE], False),
        ("flow", ["CONFIG", "GET", "*"], False),
        ("flow", ["KEYS", "*"], False),
        ("producer", ["XADD", "millstream:payments:0", "*", "v", "1"], True),
        ("producer", ["XRANGE", "millstream:payments:0", "-", "+"], False),
        ("producer", ["HGET", FEATURE, "f"], False),
        ("operator", ["SCAN", "0"], True),
        ("operator", ["RENAME", "millstream:a", "other"], False),
        ("operator", ["RENAME", "millstream:a", "millstream:b"], True),
        ("operator", ["CONFIG", "SET", "dir", "/tmp"], False),
        ("operator", ["FLUSHALL"], False),
    ],
)
def test_a_user_has_the_documented_rights_and_no_others(
    server: redis.Redis, user: str, command: list[str], allowed: bool
) -> None:
    said = server.execute_command("ACL", "DRYRUN", user, *command)
    assert (said == b"OK") == allowed, said
