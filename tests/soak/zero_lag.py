"""The flow pauses for a minute while 10,000 payments are scored in bursts: no feature vector differs from the log's.

The trial runs a whole stack on a generated world (`bench.home`: a month of history, a champion of the largest
service), each part as a process. A signal stops the payments flow; payments are scored one after the other and then
published to the bus. The flow continues, and when it has logged all of them the skew report computes every vector
again.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import orjson
import redis

from bench import home
from feature_repo.settings import PROJECT_ROOT
from feature_repo.streams.payments import PAYMENTS
from flows.generate import World, epoch_us
from flows.local.live import FLOWS, SCORER, STARTED, accounted, free_port, start_flows, wait_for_scorer
from flows.local.processes import Processes
from flows.publish.bus import encode, publish
from flows.settings import FlowSettings

TRIALS = 1
ALONE = True
PAYMENTS_SCORED = 10_000
SECONDS = 60.0


def trial(seed: int) -> str:
    """Run once; `seed` shifts the moment at which the flow stops."""
    with home.served() as (built, url):
        settings = FlowSettings(home=built.home, redis_url=url)
        client = redis.Redis.from_url(url)
        for path in settings.scores.glob("*.jsonl"):
            path.unlink()
        home.MARK.unlink()  # what is published here belongs to no benchmark
        with Processes(built.home, url) as processes:
            port = free_port()
            patient = {
                "MILLSTREAM_DEADLINE_MS": "20000"
            }  # the trial is about values, on machines however busy
            processes.start(SCORER, "-m", "serving", "--port", str(port), **patient)
            flow = processes.start("payments flow", "-m", "bytewax.run", "flows.payments")
            start_flows(processes, dict.fromkeys([name for name in FLOWS if FLOWS[name] is not PAYMENTS], 0))
            wait_for_scorer(processes, port)
            while STARTED not in flow.output():
                processes.check()
                time.sleep(0.1)
            time.sleep(0.1 * (seed % 10))
            before = _caught_up(client, built, settings)
            for key in client.scan_iter("millstream:pending:*"):  # of a trial that was broken off
                client.delete(key)
            os.killpg(flow.pid, signal.SIGSTOP)
            try:
                n, pending = _score_and_publish(client, built, port, settings.bus_partitions)
            finally:
                os.killpg(flow.pid, signal.SIGCONT)
            give_up = time.monotonic() + 180
            while accounted(PAYMENTS, settings).all < before + n:
                processes.check()
                assert time.monotonic() < give_up, "the flow did not catch up"
                time.sleep(0.2)
        command = [sys.executable, "-m", "training.skew", "--home", str(built.home)]
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        report = orjson.loads((built.home / "skew.json").read_bytes())
    assert report["compared"] == n, f"{report['missing']} answers had no vector"
    assert report["differing"] == 0, orjson.dumps(report["examples"][:3]).decode() + str(report["causes"])
    return f"{n:,} vectors, 0 differ; {pending:,} times a payment counted that the flow had not folded yet"


def _caught_up(client: redis.Redis, built: home.Built, settings: FlowSettings) -> int:
    """Publish some payments and wait until the flow has written all of the bus; return how many events are written."""
    before = accounted(PAYMENTS, settings).all
    world = World.open(built.home / "generated")
    sent = 0
    for block in world.live(epoch_us(datetime.now(UTC)), rate=200.0, seconds=1.0, block_seconds=0.1):
        sent += publish(client, PAYMENTS, block.payments, partitions=settings.bus_partitions)
    seen, since = -1, time.monotonic()
    while time.monotonic() < since + 3 or seen < before + sent:
        now = accounted(PAYMENTS, settings).all
        if now != seen:
            seen, since = now, time.monotonic()
        assert time.monotonic() < since + 120, "the flow does not read the bus"
        time.sleep(0.2)
    return seen


def _score_and_publish(client: redis.Redis, built: home.Built, port: int, partitions: int) -> tuple[int, int]:
    """Score and publish; return the payments scored, and how often one counted that the flow had not folded."""
    world = World.open(built.home / "generated")
    start = datetime.now(UTC) + timedelta(seconds=1)
    blocks = world.live(epoch_us(start), rate=PAYMENTS_SCORED / SECONDS, seconds=SECONDS, block_seconds=0.02)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    n = 0
    for number, block in enumerate(list(blocks), start=1):
        due = start + timedelta(seconds=number * 0.02)
        time.sleep(max((due - datetime.now(UTC)).total_seconds(), 0.0))
        for body in encode(block.payments.sort_by("event_timestamp")):
            connection.request("POST", "/score", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
            assert not orjson.loads(text)["degraded"], text
            n += 1
        publish(client, PAYMENTS, block.payments, partitions=partitions)
    connection.request("GET", "/metrics")
    counted = [
        float(line.split()[1])
        for line in connection.getresponse().read().decode().splitlines()
        if line.startswith("millstream_scorer_pending_total ")
    ]
    return n, int(sum(counted))
