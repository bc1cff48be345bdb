"""`score`: `POST /score` over loopback HTTP/1.1 keep-alive, against the scorer of a tutorial, on one Redis server.

Per round and scorer: closed loop for the highest rate and the CPU per request of the scorer's process, then open loop
at half of that rate for the latencies. The load comes from a process of its own (`bench.load`). Before anything is
timed, every answer of ours is compared with the model on the offline store's vectors.

python -m bench.score [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import redis

from bench import load as loads
from bench.feast_plain import fill, reference_store
from bench.harness import ROUNDS, CpuClock, Report, Target, console
from bench.home import Built, served
from feature_repo.stores.reader.plan import Plan
from flows.local.live import free_port
from serving.bootstrap import REPO
from serving.models.model import load_model
from tests.kits.child_process import child_process

SECONDS: Final = 4.0
WRITTEN_TO: Final = 300
"""Requests whose keys the reference knows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--ours-only",
        action="store_true",
        help="print our figures, without the reference and without a report",
    )
    asked = parser.parse_args()
    with served() as (built, url), tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.rmtree(built.home / "scores", ignore_errors=True)
        store = CpuClock(int(redis.Redis.from_url(url).info("server")["process_id"]))
        with scorer(built) as (port, cpu):
            check(built, port)
            if asked.ours_only:
                for _ in range(asked.rounds):
                    console.print(measure(port, cpu, store, built.home / "requests.json"))
                return
            with tutorial(built, url, folder) as (other_port, other_cpu):
                compare(built, store, (port, cpu), (other_port, other_cpu), folder, asked.rounds)


def compare(
    built: Built,
    store: CpuClock,
    ours: tuple[int, CpuClock],
    theirs: tuple[int, CpuClock],
    folder: Path,
    rounds: int,
) -> None:
    mine, other = [], []
    for number in range(rounds):
        mine.append(measure(*ours, store, built.home / "requests.json"))
        other.append(measure(*theirs, store, folder / "requests.json"))
        console.print(
            f"round {number + 1}: {mine[-1]['per_cpu_s']:,.0f} requests per CPU-second, p50 {mine[-1]['p50_ms']:.2f} and p99 "
            f"{mine[-1]['p99_ms']:.2f} ms at {mine[-1]['half_rate']:,.0f}/s; the tutorial's {other[-1]['per_cpu_s']:,.0f}, "
            f"{other[-1]['p50_ms']:.2f} and {other[-1]['p99_ms']:.2f} ms at {other[-1]['half_rate']:,.0f}/s"
        )
    report = Report("score")
    redis_us = np.median([one["redis_us"] for one in mine])
    other_redis_us = np.median([one["redis_us"] for one in other])
    report.add(
        "score",
        [one["per_cpu_s"] for one in mine],
        "requests per CPU-s",
        Target("ratio", "at least", 8.0),
        reference="FastAPI + get_online_features + inplace_predict",
        references=[one["per_cpu_s"] for one in other],
        note=f"CPU of the scorer's process; Redis besides: {redis_us:.0f} us a request, the tutorial's {other_redis_us:.0f} us; "
        f"highest rate {np.median([one['rate'] for one in mine]):,.0f}/s against {np.median([one['rate'] for one in other]):,.0f}/s",
    )
    report.add(
        "score_p99",
        [one["p99_ms"] for one in mine],
        "ms p99",
        Target("figure", "at most", 5.0),
        reference="the same, at half of its own rate",
        references=[one["p99_ms"] for one in other],
        less_is_better=True,
        note=f"open loop at half of the highest rate ({np.median([one['half_rate'] for one in mine]):,.0f}/s), load and server on one "
        f"machine; p50 {np.median([one['p50_ms'] for one in mine]):.2f} ms",
    )
    report.finish()


def measure(port: int, cpu: CpuClock, store: CpuClock, requests: Path) -> dict[str, float]:
    """One round of one scorer."""
    began, store_began = cpu(), store()
    full = load(port, requests, 0.0)
    spent, store_spent = cpu() - began, store() - store_began
    half = load(port, requests, full["rate"] / 2)
    return {
        "rate": full["rate"],
        "per_cpu_s": full["answered"] / spent,
        "redis_us": store_spent / full["answered"] * 1e6,
        "half_rate": half["rate"],
        "p50_ms": half["p50_ms"],
        "p99_ms": half["p99_ms"],
        "max_ms": half["max_ms"],
    }


def load(port: int, requests: Path, rate: float) -> dict[str, float]:
    """Results of `bench.load`; every request must have an answer, and none a degraded one."""
    seen = loads.seen(loads.started(port, requests, seconds=SECONDS, rate=rate))
    assert not any(seen[bad] for bad in ("refused", "lost", "degraded", "unanswered")), seen
    return seen


def check(built: Built, port: int) -> None:
    """Every answer is the model's, on the vector the offline store has.

    A payment more than ten minutes old of a key without a state is marked incomplete (the state may have expired): not
    compared.
    """
    model = load_model(built.artefact, REPO, threads=1)
    expected = model.predict(built.expected)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    compared = 0
    for request, score in zip(built.requests, expected.tolist(), strict=True):
        connection.request("POST", "/score", orjson.dumps(request), {"content-type": "application/json"})
        answer = orjson.loads(connection.getresponse().read())
        assert not answer["degraded"], answer
        if not answer["incomplete"]:
            assert (answer["score"], answer["decision"]) == (score, model.decide(score)), (answer, score)
            compared += 1
    assert compared >= len(built.requests) // 2, f"only {compared} answers could be compared"


@contextlib.contextmanager
def scorer(built: Built, **variables: str) -> Iterator[tuple[int, CpuClock]]:
    """Run our scorer as a user starts it, with its score log; yield its port and its CPU clock."""
    with server(
        ["-m", "serving"], built.home / "logs" / "bench-scorer.log", "/readyz", **variables
    ) as started:
        yield started


@contextlib.contextmanager
def tutorial(built: Built, url: str, folder: Path) -> Iterator[tuple[int, CpuClock]]:
    """Run the reference with its store filled."""
    plan = Plan.load(built.artefact / "plan.json")
    references = fill(reference_store(folder, url), plan, built, WRITTEN_TO)
    (folder / "requests.json").write_bytes(orjson.dumps(built.requests[:WRITTEN_TO]))
    given = {
        "folder": str(folder),
        "redis_url": url,
        "references": references,
        "names": plan.feature_names,
        "model": str(built.artefact / "model.ubj"),
    }
    (folder / "tutorial.json").write_text(json.dumps(given))
    command = ["-m", "uvicorn", "bench.tutorial_scorer:app", "--no-access-log", "--log-level", "warning"]
    with server(
        command,
        folder / "tutorial.log",
        "/docs",
        BENCH_TUTORIAL=str(folder / "tutorial.json"),
    ) as started:
        yield started


@contextlib.contextmanager
def server(command: list[str], log: Path, ready: str, **variables: str) -> Iterator[tuple[int, CpuClock]]:
    """Run one server process on a free port; yield once the path `ready` answers."""
    port = free_port()
    log.parent.mkdir(exist_ok=True)
    arguments = [sys.executable, *command, "--port", str(port)]
    with child_process(
        arguments, os.environ | variables, log, ready=lambda: answers(port, ready), timeout=120
    ) as process:
        yield port, CpuClock(process.pid)


def answers(port: int, path: str) -> bool:
    connection: Any = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", path)
        return bool(connection.getresponse().status < 500)
    return False


if __name__ == "__main__":
    main()
