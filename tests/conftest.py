"""Fixtures for all tests: a real server, and a home folder per test."""

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
    """An embedded Valkey server of this test session, one per xdist worker."""
    with EmbeddedServer(tmp_path_factory.mktemp("redis-home")) as server:
        yield server.url


@pytest.fixture(autouse=True)
def _reset_logging() -> Iterator[None]:
    """Undo the logging that a command inside a test has set up, because its stream ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def clean_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """A client of the session's server, emptied; `REDIS_URL` is set to it."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, without the MILLSTREAM settings of the shell that runs the tests."""
    for name in list(os.environ):
        if name.startswith("MILLSTREAM_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("MILLSTREAM_HOME", str(folder))
    monkeypatch.setenv("MILLSTREAM_PSEUDONYM_KEY", "off")
    return folder
