"""Clients that send endless heads or stop half way do not hold memory or a connection; slow answers are allowed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.http import slow_clients
from serving.http.upgrade import Http1Protocol

TICK = 0.2


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await asyncio.sleep(4 * TICK if scope["path"] == "/slow" else 0)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % len(str(size)))],
        }
    )
    await send({"type": "http.response.body", "body": str(size).encode()})


@contextlib.asynccontextmanager
async def served(of: Any, keep_alive: int = 5) -> AsyncIterator[tuple[ServerState, tuple[str, int]]]:
    """An application behind the protocol: the server's state, and where it listens."""
    config = uvicorn.Config(
        of,
        http=Http1Protocol,
        log_level="error",
        ws="none",
        lifespan="off",
        timeout_keep_alive=keep_alive,
    )
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: config.http_protocol_class(config, state, {}), "127.0.0.1", 0)  # type: ignore[call-arg, arg-type, return-value]
    try:
        yield state, server.sockets[0].getsockname()[:2]
    finally:
        server.close()


async def talk(
    *pieces: bytes,
    pause: float = 0.0,
    seconds: float = 1.0,
    of: Any = app,
    keep_alive: int = 5,
    answers: int = 10_000,
) -> tuple[bytes, bool]:
    """What is answered to pieces of a request, and whether the connection was closed within so many seconds.

    With the given number of `answers`, each with a body of one digit, there is no more waiting.
    """
    said, closed = b"", False
    async with served(of, keep_alive) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        try:
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(pause)
            async with asyncio.timeout(seconds):
                while part := await reader.read(65_536):
                    said += part
                    if said.count(b"\r\n\r\n") == answers and said[-5:-1] == b"\r\n\r\n":
                        return said, closed
                closed = True
        except TimeoutError:
            pass
        except ConnectionError:
            closed = True
        finally:
            writer.close()
    return said, closed


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "TICK_SECONDS", TICK)


POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 30_000,
        b"GET /" + b"a" * 200_000,
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;" + b"a" * 200_000,
    ],
    ids=["header", "headers", "path", "chunk"],
)
def test_a_head_without_an_end_is_refused(head: bytes) -> None:
    said, closed = asyncio.run(
        talk(*(head[i : i + 20_000] for i in range(0, len(head), 20_000)), pause=0.001)
    )
    assert closed
    assert said.startswith(b"HTTP/1.1 400") or not said


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nx: ", POST, POST + b"12"])
def test_a_client_that_stops_in_the_middle_of_a_request_is_disconnected(sent: bytes) -> None:
    assert asyncio.run(talk(sent, seconds=20)) == (b"", True)


def test_large_bodies_slow_answers_and_idle_connections_are_allowed() -> None:
    body = b"b" * 300_000
    said, closed = asyncio.run(talk(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body), body))
    assert said.endswith(b"\r\n\r\n300000")
    assert not closed
    said, closed = asyncio.run(talk(b"GET /slow HTTP/1.1\r\n\r\n", seconds=8 * TICK))
    assert (said.count(b"200 OK"), closed) == (1, False)
    said, _ = asyncio.run(talk(POST[:10], POST[10:], b"12", b"345" + POST + b"12345", pause=TICK / 4))
    assert said.count(b"200 OK") == 2


async def hasty(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answers before it has read anything."""
    await asyncio.sleep(8 * TICK if scope["path"] == "/slow" else 0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("rest", [b"", b"12", b"12345"])
def test_a_client_that_was_answered_early_and_stops_is_disconnected(rest: bytes) -> None:
    """Whether it owes the rest of its body, or has sent it and says nothing more."""
    said, closed = asyncio.run(talk(POST, rest, pause=TICK / 4, seconds=20, of=hasty, keep_alive=1))
    assert said.count(b"200 OK") == 1
    assert closed


def test_a_slow_request_may_begin_in_the_packet_that_ends_another() -> None:
    slow = b"GET /slow HTTP/1.1\r\n\r\n"
    said, _ = asyncio.run(
        talk(POST, b"12345" + slow, pause=TICK / 4, seconds=12 * TICK, of=hasty, keep_alive=1)
    )
    assert said.count(b"200 OK") == 2


def test_requests_sent_without_waiting_are_read_as_they_are_answered() -> None:
    """One read ahead, 256 KB; whatever else is sent waits with the client."""

    async def story() -> tuple[int, int]:
        async with served(app) as (state, address):
            reader, writer = await asyncio.open_connection(*address)
            one = b"GET / HTTP/1.1\r\n\r\n"
            writer.write(one * 100_000)
            answered = most = 0
            while answered < 2_000:
                answered += (await reader.read(4_096)).count(b"200 OK")
                most = max(most, *(len(connection.pipeline) for connection in state.connections), 0)
            writer.transport.abort()
            return answered, most

    answered, most = asyncio.run(story())
    assert 0 < most <= 262_144 // 18 + 1, (answered, most)


OFFER = b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\ncontent-length: 5\r\n\r\n"
ASKED = {
    "one piece": (OFFER + b"12345",),
    "two pieces": (OFFER, b"12345"),
    "capitals": (OFFER.upper().replace(b"H2C", b"h2c") + b"12345",),
    "behind another request": (POST + b"12345" + OFFER + b"12345",),
    "behind a part of a body": (POST + b"12", b"345" + OFFER + b"12345"),
    "many at once": ((OFFER + b"12345") * 3_000,),
    "a chunk that looks like one": (
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r",
        b"\n9\r\nupgrade:2\r\n0\r\n\r\n",
    ),
}


@pytest.mark.parametrize("pieces", ASKED.values(), ids=ASKED)
def test_an_offer_of_another_protocol_costs_nothing(pieces: tuple[bytes, ...]) -> None:
    asked = b"".join(pieces).lower().count(b"post / ")
    said, _ = asyncio.run(talk(*pieces, pause=TICK / 4, seconds=20.0, answers=asked))
    assert said.count(b"200 OK") == asked
    assert said.endswith(b"\r\n\r\n9" if b"chunked" in pieces[0] else b"\r\n\r\n5")


def test_an_offer_may_be_cut_anywhere() -> None:
    """Every byte for itself."""
    said, _ = asyncio.run(
        talk(*(bytes([byte]) for byte in (OFFER + b"12345") * 2), pause=0.001, seconds=20.0, answers=2)
    )
    assert said.count(b"200 OK") == said.count(b"\r\n\r\n5") == 2


def test_connect_is_refused() -> None:
    said, closed = asyncio.run(talk(b"CONNECT a.example:443 HTTP/1.1\r\nhost: a.example\r\n\r\n"))
    assert said.startswith(b"HTTP/1.1 400")
    assert closed
