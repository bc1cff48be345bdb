"""Sends `POST /score`, several requests in flight over connections that stay open, and measures latency at the client.

The latency of a request begins when its payment is handed over, not when a connection is free for it. Otherwise a
scorer that falls behind would look fast, because fewer requests would be sent to it.
"""

from __future__ import annotations

import http.client
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from feature_repo.errors import SettingsError

TIMEOUT_S: Final = 10.0
_HEADERS: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class _Request:
    """One payment to score; `began` by `time.perf_counter`."""

    body: bytes
    began: float
    measured: bool
    then: Callable[[], None]


class ScoreClient:
    """A client of `connections` threads with one connection each. The counters may be read at any time.

    `url` is the base address of a scorer. Raises `SettingsError` if it is not an http address.
    """

    def __init__(self, url: str, connections: int) -> None:
        address = urlsplit(url)
        if address.scheme != "http" or not address.hostname:
            raise SettingsError(
                "not the address of a scorer",
                where=url,
                todo="give its base address, such as http://127.0.0.1:8000",
            )
        self._host, self._port = address.hostname, address.port or 80
        self._waiting: SimpleQueue[_Request | None] = SimpleQueue()
        self._lock = Lock()
        self.latencies_ms: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()
        self.degraded = 0
        self.last_failure = ""
        self._asked = 0
        self._done = 0
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(connections)]
        for thread in self._threads:
            thread.start()

    def ask(self, body: bytes, *, measured: bool, then: Callable[[], None] = lambda: None) -> None:
        """Hand over a payment (JSON) and return at once; `then` is called when it is answered or has failed."""
        self._asked += 1
        self._waiting.put(_Request(body, time.perf_counter(), measured, then))

    def finish(self) -> None:
        """Wait for all answers and for what is called after them."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def outstanding(self) -> int:
        """Number of requests handed over whose answer, or what is called after it, is still to come."""
        return self._asked - self._done

    @property
    def answered(self) -> int:
        """Number of requests answered with status 200."""
        return self.statuses["200"]

    @property
    def failed(self) -> int:
        """Number of requests with another status, or without an answer."""
        return sum(self.statuses.values()) - self.answered

    def _work(self) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        while (request := self._waiting.get()) is not None:
            try:
                status, answer = _post(connection, request.body)
                took_ms = (time.perf_counter() - request.began) * 1000
                self._count(str(status), answer, took_ms if request.measured else None)
            except (OSError, http.client.HTTPException) as error:
                connection.close()  # the next request opens another one
                self._fail("no answer", f"{type(error).__name__}: {error}")
            request.then()
            with self._lock:
                self._done += 1
        connection.close()

    def _count(self, status: str, body: bytes, took_ms: float | None) -> None:
        if status != "200":
            self._fail(status, body[:300].decode(errors="replace"))
            return
        answer: dict[str, Any] = orjson.loads(body)
        with self._lock:
            self.statuses[status] += 1
            self.decisions[answer["decision"]] += 1
            self.degraded += bool(answer["degraded"])
            if took_ms is not None:
                self.latencies_ms.append(took_ms)

    def _fail(self, status: str, why: str) -> None:
        with self._lock:
            self.statuses[status] += 1
            self.last_failure = f"{status}: {why}"


def _post(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
    """Send one request; retry it once on a new connection if the server closed the idle one.

    Returns the status and the body of the answer. Raises `OSError` or `http.client.HTTPException`.
    """
    kept_open = connection.sock is not None
    try:
        connection.request("POST", "/score", body, _HEADERS)
        response = connection.getresponse()
    except (ConnectionError, http.client.RemoteDisconnected):
        connection.close()
        if not kept_open:
            raise
        connection.request("POST", "/score", body, _HEADERS)
        response = connection.getresponse()
    return response.status, response.read()
