"""Asks `POST /score`, several requests in flight over connections that stay open, and measures from the client's side.

The time of a request begins when its payment is handed over, not when a connection is free for it: a scorer that falls
behind must not look quick because fewer requests are sent.
"""

from __future__ import annotations

import http.client
import time
from collections import Counter
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from feature_repo.errors import SettingsError

TIMEOUT_S: Final = 10.0
_HEADERS: Final = {"content-type": "application/json"}


class Asker:
    """`connections` threads with one connection each. Safe to read at any time."""

    def __init__(self, url: str, connections: int) -> None:
        address = urlsplit(url)
        if address.scheme != "http" or not address.hostname:
            raise SettingsError(
                "not the address of a scorer",
                where=url,
                todo="give its base address, such as http://127.0.0.1:8000",
            )
        self._host, self._port = address.hostname, address.port or 80
        self._waiting: SimpleQueue[tuple[bytes, float, bool] | None] = SimpleQueue()
        self._lock = Lock()
        self.latencies_ms: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()
        self.degraded = 0
        self._asked = 0
        self.last_failure = ""
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(connections)]
        for thread in self._threads:
            thread.start()

    def ask(self, body: bytes, *, measured: bool) -> None:
        """Have a payment scored; returns at once."""
        self._asked += 1
        self._waiting.put((body, time.perf_counter(), measured))

    def finish(self) -> None:
        """Wait for all answers."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def outstanding(self) -> int:
        """Requests handed over that have no outcome yet."""
        return self._asked - sum(self.statuses.values())

    @property
    def answered(self) -> int:
        """Requests answered with 200."""
        return self.statuses["200"]

    def _work(self) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        while (item := self._waiting.get()) is not None:
            body, began, measured = item
            try:
                status, answer = _post(connection, body)
                took_ms = (time.perf_counter() - began) * 1000
                self._count(str(status), answer, took_ms if measured else None)
            except (OSError, http.client.HTTPException) as error:
                connection.close()  # the next request opens another one
                self._fail("no answer", f"{type(error).__name__}: {error}")
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
    """One request; asked again on a new connection if the server had closed this one while it was idle."""
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
