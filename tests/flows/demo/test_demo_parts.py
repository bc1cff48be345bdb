"""What the demo is made of: children that cannot outlive us, a home that is its own, a server of which it takes only
its keys.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from feature_repo.errors import FlowError, SettingsError
from feature_repo.stores.redis_layout.keys import key_prefix, key_values
from flows.local.home import clear_server, fresh
from flows.local.processes import Processes, last_words
from flows.settings import FlowSettings
from flows.traffic.report import percentiles
from flows.traffic.scoring import ScoreClient
from flows.up import _unfinished


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_failing_child_is_told_with_its_last_words_and_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path, "redis://127.0.0.1:1/0") as processes:
        processes.start("broken part", "-c", "raise ValueError('no such thing')")
        with pytest.raises(
            FlowError, match=r"broken part ended with code 1: ValueError: no such thing"
        ) as told:
            processes.finish("broken part")
    assert "logs/broken-part.log" in str(told.value)
    assert "no such thing" in (tmp_path / "logs" / "broken-part.log").read_text()


def test_waiting_for_one_child_notices_the_death_of_another(tmp_path: Path) -> None:
    with Processes(tmp_path, "redis://127.0.0.1:1/0") as processes:
        processes.start("long", "-c", "import time; time.sleep(60)")
        processes.start("short", "-c", "raise SystemExit('gone')")
        with pytest.raises(FlowError, match="short ended with code 1: gone"):
            processes.finish("long")


def test_lines_of_a_child_are_passed_on_as_they_come(tmp_path: Path) -> None:
    told: list[str] = []
    with Processes(tmp_path, "redis://127.0.0.1:1/0") as processes:
        processes.start("talker", "-c", "import os; print('a'); print(os.environ['MILLSTREAM_HOME'])")
        processes.finish("talker", told.append)
    assert told == ["a", str(tmp_path)]


def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from flows.local.processes import Processes\n"
        f"p = Processes(Path({str(tmp_path)!r}), 'redis://127.0.0.1:1/0')\n"
        "p.start('child', '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(600)')\n"
        "time.sleep(600)"
    )
    log = tmp_path / "logs" / "child.log"
    parent = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    give_up = time.monotonic() + 60
    while not (log.exists() and log.read_text().strip()):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    child = int(log.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while alive(child):
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_last_words_are_the_error_and_not_the_log_line_after_it() -> None:
    assert last_words('Traceback\nKeyError: 3\n{"event": "x"}\n') == "KeyError: 3"
    assert last_words("") == "it wrote no output"


def test_a_folder_no_demo_wrote_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(SettingsError, match="was not written by a demo"), fresh(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "dear"


def test_a_second_demo_begins_afresh_and_two_at_once_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    with fresh(home):
        (home / "log").mkdir()
        (home / "log" / "x.parquet").write_text("")
        with pytest.raises(SettingsError, match="another demo runs"), fresh(home):
            pass
    with fresh(home):
        assert [path.name for path in home.iterdir()] == [".millstream-demo"]


def test_only_keys_of_ours_are_cleared_from_a_given_server(clean_redis: redis.Redis, redis_url: str) -> None:
    feature = key_prefix(["account_id"]) + key_values(["a-1"]) + b"millstream"
    other_project = key_prefix(["account_id"]) + key_values(["a-1"]) + b"another"
    clean_redis.hset(feature, "f", "1")
    clean_redis.hset(other_project, "f", "1")
    clean_redis.set("cart:7:millstream", "somebody else's")
    clean_redis.xadd("millstream:payments:0", {"v": "{}"})
    assert clear_server(redis_url, "millstream") == 2
    assert set(clean_redis.keys()) == {other_project, b"cart:7:millstream"}


class _Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0.05)
        bad = body == b"bad"
        answer = b'{"detail": "amount: too small"}' if bad else b'{"decision": "review", "degraded": true}'
        self.send_response(422 if bad else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def test_latency_includes_the_wait_for_a_free_connection() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = ScoreClient(f"http://127.0.0.1:{server.server_port}", connections=1)
        for body in (b"warm", b"{}", b"{}", b"bad"):
            client.ask(body, measured=body == b"{}")
        client.finish()
        server.shutdown()
    assert client.outstanding == 0
    assert (client.answered, client.degraded, dict(client.decisions)) == (3, 3, {"review": 3})
    assert client.last_failure == '422: {"detail": "amount: too small"}'
    assert len(client.latencies_ms) == 2
    assert client.latencies_ms[1] >= 145  # behind two others of 50 ms


def test_percentiles_of_nothing_are_null_and_not_zero() -> None:
    assert percentiles([])["p99"] is None


@pytest.mark.parametrize("last", ["payments", "labels"])
def test_a_history_interrupted_in_any_stream_is_brought_to_its_end(tmp_path: Path, last: str) -> None:
    def rows(path: Path, n: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"n": range(n)}), path)

    settings = FlowSettings(home=tmp_path, source_files="")
    history = tmp_path / "generated"
    assert not _unfinished(settings, history)
    for stream in ("payments", "labels", "customers", "merchants", "charges"):
        rows(history / f"{stream}.parquet", 5)
        rows(tmp_path / "log" / stream / "files-0.parquet", 4)
        rows(tmp_path / "log" / stream / "bus-0.parquet", 9)
        if stream != last:
            rows(tmp_path / "dead_letters" / stream / "files-0.parquet", 1)
    assert _unfinished(settings, history)
    rows(tmp_path / "dead_letters" / last / "files-0.parquet", 1)
    assert not _unfinished(settings, history)
