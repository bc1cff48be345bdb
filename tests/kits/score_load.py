"""A steady load of payments on a scorer, and a count of its answers.

The load is open: a request is sent when it is due, whether or not the ones before it were answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

ANSWER_TIMEOUT: Final = 20.0
"""Seconds a client waits for an answer."""


@dataclass
class Answer:
    """One answer: HTTP status (0: none), seconds from when it was due, and body."""

    status: int
    seconds: float
    body: Any

    @property
    def codes(self) -> tuple[str, ...]:
        """The reasons why it is degraded."""
        if self.status != 200:
            return ()
        return tuple(reason["code"] for reason in self.body["degraded_reasons"])


@dataclass
class AnswerCounts:
    """Counts the answers to a load."""

    n: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    """Answers by the reason they are degraded for; "" for those that are not degraded."""
    versions: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    seconds: array[float] = field(default_factory=lambda: array("d"))

    def add(self, answer: Answer) -> None:
        self.n += 1
        self.statuses[answer.status] += 1
        self.seconds.append(answer.seconds)
        if answer.status == 200:
            self.degraded += answer.body["degraded"]
            self.codes.update(answer.codes or ("",))
            self.versions[(answer.body["model"] or {"version": ""})["version"]] += 1

    def within(self, seconds: float) -> float:
        """The share of answers that took no longer than `seconds`."""
        return sum(s <= seconds for s in self.seconds) / max(1, self.n)

    def quantile(self, q: float) -> float:
        """The q-quantile of the times, in milliseconds."""
        return 1000 * sorted(self.seconds)[min(self.n - 1, int(q * self.n))]

    def __str__(self) -> str:
        return (
            f"{self.n:,} answers {dict(self.statuses)}, {self.degraded:,} degraded {dict(self.codes)}, "
            f"p50 {self.quantile(0.5):.0f} p99 {self.quantile(0.99):.0f} max {self.quantile(1):.0f} ms"
        )


class ScoreClient:
    """Keep-alive connections to one scorer; as many as there are requests without an answer."""

    def __init__(self, address: str) -> None:
        self._at = urlsplit(address)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, payment: dict[str, Any], due: float) -> Answer:
        """POST /score once; `due` is when the request was due, on `time.perf_counter`."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                status, body = await self._post(orjson.dumps(payment))
        except (OSError, EOFError, TimeoutError):
            return Answer(0, time.perf_counter() - due, None)
        return Answer(status, time.perf_counter() - due, orjson.loads(body))

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                try:
                    return await self._over(reader, writer, body)
                except (ConnectionError, asyncio.IncompleteReadError) as error:
                    if getattr(error, "partial", b""):
                        raise  # the server closes idle connections, but never within an answer
        reader, writer = await asyncio.open_connection(self._at.hostname, self._at.port)
        return await self._over(reader, writer, body)

    async def _over(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
    ) -> tuple[int, bytes]:
        try:
            writer.write(
                b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
            answer = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.transport.abort()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head[0].split()[1]), answer

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def send_load(
    client: ScoreClient, payments: Sequence[dict[str, Any]], *, rate: float, requests: int
) -> AnswerCounts:
    """Send `requests` payments, `rate` a second; return the counts when all are answered."""
    tally, waiting = AnswerCounts(), set[asyncio.Task[None]]()

    async def ask(i: int, due: float) -> None:
        tally.add(await client.ask(payments[i % len(payments)], due))

    began = time.perf_counter()
    for i in range(requests):
        due = began + i / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(ask(i, due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    return tally


async def seconds_until_recovered(
    client: ScoreClient, payment: dict[str, Any], within: float = 20.0
) -> float:
    """Seconds until the first of three answers in a row that are not degraded."""
    began, good = time.perf_counter(), 0
    since = began
    while good < 3:
        asked = time.perf_counter()
        answer = await client.ask(payment, asked)
        if answer.status == 200 and not answer.body["degraded"]:
            since = since if good else asked
            good += 1
        else:
            good = 0
        assert asked - began < within, answer
        await asyncio.sleep(0.02)
    return since - began


@contextlib.asynccontextmanager
async def score_client(address: str) -> AsyncIterator[ScoreClient]:
    """A client of the scorer at `address`, closed at the end of the block."""
    client = ScoreClient(address)
    try:
        yield client
    finally:
        client.close()
