"""Load on an HTTP server over keep-alive connections, from a process of its own; prints one line of JSON.

Open loop (`--rate`): requests are due at a fixed rate whatever the server does, and a latency counts from the moment
its request was due; a server that stalls cannot look good by slowing its clients down. Closed loop (`--rate 0`): each
connection sends its next request after its answer; this finds the highest rate of a server.

python -m bench.load --port 8000 --requests requests.json --seconds 5 --rate 200
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from array import array
from collections import Counter, deque
from pathlib import Path
from typing import Any

import orjson
import uvloop

from bench.harness import percentile
from feature_repo.settings import PROJECT_ROOT

PATH = "/score"
DRAIN_S = 5.0


def started(
    port: int, requests: Path, *, seconds: float, rate: float, connections: int = 16
) -> subprocess.Popen[str]:
    """Start a load in a process of its own; `seen` waits for its end."""
    options = {
        "port": port,
        "requests": requests,
        "seconds": seconds,
        "rate": rate,
        "connections": connections,
    }
    command = [sys.executable, "-m", "bench.load", *(f"--{name}={value}" for name, value in options.items())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)


def seen(load: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the end of a load; return its results."""
    said, _ = load.communicate()
    assert load.returncode == 0, said
    found: dict[str, Any] = json.loads(said)
    return found


class Connection(asyncio.Protocol):
    """One connection with one request at a time; calls its load when it is free again."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.due = 0.0
        self.received = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return
        lowered = self.received[:head].lower()
        at = lowered.index(b"content-length:") + 15
        size = int(lowered[at:].split(b"\r\n", 1)[0])
        if len(self.received) < head + 4 + size:
            return
        body, self.received = self.received[head + 4 :], b""
        self.load.answered(self, lowered, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.lost += 1
        with contextlib.suppress(ValueError):
            self.load.idle.remove(self)


class Load:
    """Sends `requests` one after the other, in a loop."""

    def __init__(self, requests: list[bytes], seconds: float, rate: float) -> None:
        self.requests, self.seconds, self.rate = requests, seconds, rate
        self.latencies, self.refusals = array("d"), array("d")
        """Seconds until an answer with 200, and until any other."""
        self.statuses: Counter[str] = Counter()
        self.idle: deque[Connection] = deque()
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.sent = self.lost = self.degraded = self.no_retry_after = 0
        self.began = self.end = 0.0

    async def run(self, host: str, port: int, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, made = await loop.create_connection(lambda: Connection(self), host, port)
            self.idle.append(made)
        self.began = time.perf_counter()
        self.end = self.began + self.seconds
        if self.rate:
            await self._open_loop()
        else:
            while self.idle:
                self._send(time.perf_counter())
            await asyncio.sleep(self.seconds)
        give_up = time.perf_counter() + DRAIN_S
        while self.unanswered and time.perf_counter() < give_up:  # noqa: ASYNC110  a few looks at the end, where an event would be one more thing per answer
            await asyncio.sleep(0.01)

    @property
    def unanswered(self) -> int:
        return self.sent - len(self.latencies) - len(self.refusals)

    async def _open_loop(self) -> None:
        due, step = self.began, 1 / self.rate
        while due < self.end:
            now = time.perf_counter()
            while due <= now and due < self.end:
                self._send(due)
                due += step
            await asyncio.sleep(max(due - time.perf_counter(), 0))

    def _send(self, due: float) -> None:
        request = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        if self.idle:
            self.idle.popleft().send(request, due)
        else:
            self.waiting.append((request, due))

    def answered(self, connection: Connection, head: bytes, body: bytes) -> None:
        now, status = time.perf_counter(), head[9:12]
        self.statuses[status.decode()] += 1
        if status == b"200":
            self.latencies.append(now - connection.due)
            self.degraded += b'"degraded":true' in body
        else:
            self.refusals.append(now - connection.due)
            self.no_retry_after += b"\r\nretry-after:" not in head
        if self.waiting:
            connection.send(*self.waiting.popleft())
        else:
            self.idle.append(connection)
            if not self.rate and now < self.end:
                self._send(now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True, help="a JSON list of bodies")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--connections", type=int, default=16)
    asked = parser.parse_args()
    bodies = [orjson.dumps(body) for body in orjson.loads(asked.requests.read_bytes())]
    head = f"POST {PATH} HTTP/1.1\r\nHost: {asked.host}\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    load = Load([head.encode() % len(body) + body for body in bodies], asked.seconds, asked.rate)
    uvloop.run(load.run(asked.host, asked.port, asked.connections))
    print(
        json.dumps(
            {
                "sent": load.sent,
                "statuses": load.statuses,
                "answered": len(load.latencies),
                "refused": len(load.refusals),
                "no_retry_after": load.no_retry_after,
                "lost": load.lost,
                "degraded": load.degraded,
                "unanswered": load.unanswered,
                "rate": len(load.latencies) / asked.seconds,
                **_milliseconds("", load.latencies),
                **_milliseconds("refused_", load.refusals),
            }
        )
    )


def _milliseconds(prefix: str, seconds: array[float]) -> dict[str, float]:
    found = [1e3 * second for second in seconds] or [float("nan")]
    return {
        f"{prefix}p50_ms": percentile(found, 50),
        f"{prefix}p99_ms": percentile(found, 99),
        f"{prefix}max_ms": max(found),
    }


if __name__ == "__main__":
    main()
