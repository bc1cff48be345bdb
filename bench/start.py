"""`start`: from `make up` to the first score, on a home with a model, all compiled; `start_scorer`: the scorer alone.

A score is an answer of `POST /score` with features and model; it is requested every 20 ms from the start of the
process.

python -m bench.start [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import orjson

from bench.harness import ROUNDS, Report, Target, console
from bench.home import HOME, Built, environment, prepared
from flows.local.live import free_port
from flows.local.redis_server import EmbeddedServer
from tests.kits.child_process import child_process

WITHIN_S: Final = 180.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    built = prepared()
    with EmbeddedServer(HOME) as server:
        scorer(built, server.url)  # once unmeasured: compiled kernels, bytecode, file cache
        alone = [scorer(built, server.url) for _ in range(rounds)]
    console.print("scorer alone: " + ", ".join(f"{seconds:.2f}" for seconds in alone) + " s")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"  # its own: traffic goes through it
        shutil.copytree(HOME, home)
        up(built, home)
        whole = []
        for number in range(rounds):
            whole.append(up(built, home))
            console.print(
                f"round {number + 1}: first score after {whole[-1][0]:.2f} s, all flows run after {whole[-1][1]:.2f} s"
            )
    report = Report("start")
    flows = sorted(running for _, running in whole)[len(whole) // 2]
    report.add(
        "start",
        [first for first, _ in whole],
        "s",
        Target("figure", "at most", 15.0),
        note=f"`make up` to the first answer of POST /score; all five flows run after {flows:.1f} s",
    )
    report.add(
        "start_scorer",
        alone,
        "s",
        Target("figure", "at most", 3.0),
        note="process start to the first answer of POST /score",
    )
    report.finish()


def scorer(built: Built, url: str) -> float:
    """Seconds to the first score of a scorer whose server runs."""
    port = free_port()
    began = time.monotonic()
    with child_process(
        [sys.executable, "-m", "serving", "--port", str(port)], environment(url), Path(os.devnull)
    ) as child:
        wait_for_score(child, port, built)
        return time.monotonic() - began


def up(built: Built, home: Path) -> tuple[float, float]:
    """Seconds to the first score of the whole stack, and until it says that everything runs."""
    port, log = free_port(), home / "up.log"
    variables = environment("") | {"MILLSTREAM_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    variables.pop("REDIS_URL")
    log.write_text("")
    began = time.monotonic()
    with child_process(
        [sys.executable, "-m", "flows.up", "--traffic", "--port", str(port)], variables, log
    ) as child:
        wait_for_score(child, port, built)
        first = time.monotonic() - began
        while "Ctrl-C stops everything" not in log.read_text():
            assert child.poll() is None and time.monotonic() < began + WITHIN_S, log.read_text()  # noqa: PT018
            time.sleep(0.02)
        return first, time.monotonic() - began


def wait_for_score(child: subprocess.Popen[bytes], port: int, built: Built) -> None:
    """Return when a payment was scored by the model, on features."""
    body = orjson.dumps(built.requests[0])
    give_up = time.monotonic() + WITHIN_S
    while time.monotonic() < give_up:
        assert child.poll() is None, f"the process ended with {child.returncode}"
        connection: Any = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("POST", "/score", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            if answer.status == 200 and orjson.loads(answer.read())["degraded"] is False:
                return
        time.sleep(0.02)
    msg = f"no score within {WITHIN_S:.0f} s"
    raise TimeoutError(msg)


if __name__ == "__main__":
    main()
