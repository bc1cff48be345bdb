"""The demo as a user runs it, in small: one whole loop, its summary, and nothing left behind; then the same home kept
up.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

SMALL = ("--payments", "8000", "--accounts", "300", "--merchants", "60", "--fraud-share", "0.03")

STREAMS = ("payments", "labels", "customers", "merchants", "charges")

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes in /proc")


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MILLSTREAM_", "DEMO_"))}
    kept.pop("REDIS_URL", None)
    return kept | {"COLUMNS": "120", "MILLSTREAM_PSEUDONYM_KEY": "t1:" + "QUJD" * 11}


def processes_of(home: Path) -> dict[int, str]:
    """Command lines of running processes that work in a home, or have its path in their command."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                inherited = (entry / "environ").read_bytes()
            except OSError:
                continue
            if command and (str(home) in command or f"MILLSTREAM_HOME={home}\0".encode() in inherited):
                found[int(entry.name)] = command
    return found


def gone(home: Path, seconds: float = 20.0) -> dict[int, str]:
    """What still runs after a moment's patience."""
    give_up = time.monotonic() + seconds
    while (left := processes_of(home)) and time.monotonic() < give_up:
        time.sleep(0.1)
    return left


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.1)


class Demo:
    def __init__(self, home: Path) -> None:
        self.home = home
        done = subprocess.run(
            [sys.executable, "-m", "flows.demo", "--home", str(home), *SMALL],
            env=environment() | {"DEMO_SECONDS": "8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
        self.said = done.stdout
        assert done.returncode == 0, done.stdout + done.stderr
        self.summary: dict[str, Any] = json.loads((home / "summary.json").read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(tmp_path_factory.mktemp("demo") / "home")


def test_the_summary_has_the_promised_keys(demo: Demo) -> None:
    summary = demo.summary
    assert set(summary) == {
        "payments",
        "training",
        "model",
        "scoring",
        "freshness_ms",
        "skew",
        "seconds",
    }
    assert set(summary["payments"]) == {"in", "logged", "dead_letters"}
    assert set(summary["training"]) == {"rows", "features", "validation_success"}
    metrics = {"average_precision", "roc_auc", "recall_at_1pct_fpr"}
    assert set(summary["model"]) == metrics | {"by_fraud_type", "by_service"}
    assert set(summary["model"]["by_fraud_type"]) <= {"probe", "spread", "drain"}
    assert set(summary["scoring"]) == {"requests", "latency_ms"}
    assert set(summary["scoring"]["latency_ms"]) == set(summary["freshness_ms"]) == {"p50", "p99"}
    assert set(summary["skew"]) == {"compared", "differing", "causes"}


def test_the_champion_is_compared_with_the_same_trees_on_fewer_features(demo: Demo) -> None:
    smallest, middle, champion = demo.summary["model"]["by_service"]
    assert [of["service"] for of in (smallest, middle, champion)] == [
        "fraud_detection_v1",
        "fraud_detection_v2",
        "fraud_detection_v3",
    ]
    assert smallest["features"] < middle["features"] < champion["features"]
    assert champion["features"] == demo.summary["training"]["features"]
    assert champion["average_precision"] == demo.summary["model"]["average_precision"]


@pytest.mark.parametrize("stream", STREAMS)
def test_every_event_of_every_stream_is_logged_or_a_dead_letter(demo: Demo, stream: str) -> None:
    def rows(folder: str) -> int:
        return sum(pq.read_metadata(path).num_rows for path in (demo.home / folder).glob("*.parquet"))

    history = pq.read_metadata(demo.home / "generated" / f"{stream}.parquet").num_rows
    live = json.loads((demo.home / "traffic.json").read_text())[stream]
    assert history > 0
    assert rows(f"log/{stream}") + rows(f"dead_letters/{stream}") == history + live


def test_every_payment_is_logged_or_a_dead_letter(demo: Demo) -> None:
    payments = demo.summary["payments"]
    history = pq.read_metadata(demo.home / "generated" / "payments.parquet").num_rows
    live = json.loads((demo.home / "traffic.json").read_text())["payments"]
    assert payments["in"] == history + live
    assert payments["in"] == payments["logged"] + payments["dead_letters"]


def test_every_live_payment_is_scored_and_compared(demo: Demo) -> None:
    live = json.loads((demo.home / "traffic.json").read_text())
    assert live["failed"] == 0, live["last_failure"]
    assert demo.summary["scoring"]["requests"] == live["payments"] > 8 * 40 / 2
    assert demo.summary["skew"]["compared"] == live["requests"] - live["degraded"]


def test_every_difference_between_live_and_log_is_explained(demo: Demo) -> None:
    skew = demo.summary["skew"]
    assert sum(skew["causes"].values()) == skew["differing"]
    assert "unexplained" not in skew["causes"]
    assert skew["differing"] < skew["compared"] / 2


def test_live_payments_become_readable_within_a_second(demo: Demo) -> None:
    assert 0 < demo.summary["freshness_ms"]["p50"] < 1000


def test_what_is_printed_names_files_that_are_there(demo: Demo) -> None:
    for name in ("Model report", "Data Docs", "Skew report", "Summary", "Logs"):
        (place,) = re.findall(rf"^  {name} +(\S+)$", demo.said, re.MULTILINE)
        assert Path(place).exists()


@needs_proc
def test_the_demo_leaves_nothing_running(demo: Demo) -> None:
    assert gone(demo.home) == {}


@pytest.fixture
def up(demo: Demo) -> Iterator[subprocess.Popen[str]]:
    log = demo.home / "up.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.up", "--home", str(demo.home), "--port", "0", "--traffic"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            wait_for(lambda: "Ctrl-C stops everything" in log.read_text(), process, 240)
            yield process
        finally:
            process.kill()
            process.wait()


@needs_proc
def test_up_restarts_a_flow_and_stops_with_the_scorer(demo: Demo, up: subprocess.Popen[str]) -> None:
    def kill(words: str) -> None:
        pids = [
            pid
            for pid, command in processes_of(demo.home).items()
            if words in command and "/bin/sh" not in command
        ]
        assert pids, processes_of(demo.home)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    running = "\n".join(processes_of(demo.home).values())
    assert all(f"bytewax.run flows.stream:flow('{stream}')" in running for stream in STREAMS)
    said = demo.home / "up.txt"
    kill("bytewax.run flows.stream:flow('payments')")
    wait_for(lambda: "Started again, 1 of 5" in said.read_text(), up, 60)
    kill("-m serving")
    assert up.wait(60) == 1
    assert "scorer ended with code" in said.read_text()
    assert gone(demo.home) == {}


@needs_proc
def test_an_interrupted_demo_stops_everything_it_started(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.demo", "--home", str(home), *SMALL],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a suite in the background ignores it
    )
    wait_for((home / "logs" / "feast-apply.log").exists, process, 60)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "everything has been stopped" in said
    assert "Traceback" not in said
    assert gone(home) == {}
