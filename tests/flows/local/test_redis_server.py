"""The embedded server: up with an address, gone with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from feature_repo.errors import OnlineStoreError
from flows.local.redis_server import EmbeddedServer, redis_server


def _answers(url: str) -> bool:
    try:
        return bool(redis.Redis.from_url(url, socket_timeout=1).ping())
    except redis.RedisError:
        return False


def test_server_writes_its_address_and_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with redis_server(tmp_path) as url:
        assert (tmp_path / "redis.url").read_text().strip() == url
        client = redis.Redis.from_url(url, decode_responses=True)
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert not _answers(url)
    assert not (tmp_path / "redis.url").exists()


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        redis.Redis.from_url(server.url).xadd("s", {"v": "1"})
    with EmbeddedServer(tmp_path) as server:
        assert redis.Redis.from_url(server.url).xlen("s") == 1


def test_second_server_of_one_home_is_refused(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path), pytest.raises(OnlineStoreError, match="already runs"):
        EmbeddedServer(tmp_path).start()


def test_given_url_starts_nothing(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    with redis_server(tmp_path) as url:
        assert url == redis_url
    assert _answers(redis_url)
    assert list(tmp_path.iterdir()) == []


def test_given_url_that_does_not_answer_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(OnlineStoreError, match="unset REDIS_URL"), redis_server(tmp_path):
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_ends_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from flows.local.redis_server import EmbeddedServer\n"
        "with EmbeddedServer(pathlib.Path(sys.argv[1])) as s:\n"
        "    print(s.url, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=dict(os.environ),
    )
    assert parent.stdout is not None
    url = next(line for line in parent.stdout if line.startswith("redis://")).strip()
    assert _answers(url)
    parent.send_signal(how)
    parent.wait()
    give_up = time.monotonic() + 10
    while _answers(url) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not _answers(url)
