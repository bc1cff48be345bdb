"""Shared ground of all tests: a real server, and a home folder of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import structlog

os.environ["MILLSTREAM_PSEUDONYM_KEY"] = (
    "off"  # before anything reads settings; a test of pseudonyms sets its own key
)

from flows.local.redis_server import EmbeddedServer


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Valkey server of this test session (one for each xdist worker), always an embedded one."""
    with EmbeddedServer(tmp_path_factory.mktemp("redis-home")) as server:
        yield server.url


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command run inside a test sets up logs for its process, onto a stream that ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def clean_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """The session's server, emptied, as a client; `REDIS_URL` names it for code that reads the settings."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder; no setting of the developer's own shell reaches the test."""
    for name in list(os.environ):
        if name.startswith("MILLSTREAM_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("MILLSTREAM_HOME", str(folder))
    monkeypatch.setenv("MILLSTREAM_PSEUDONYM_KEY", "off")
    return folder
