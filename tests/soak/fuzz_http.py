"""Wrong payments, unknown routes and raw bytes arrive at the scorer's socket; none of them causes a 5xx.

A trial sends 10,000 requests over kept-open connections to a real `python -m serving` with a model and a store. One in
four is a valid payment, half have wrong or hostile fields, bodies, headers, keys or paths, and the rest is broken
HTTP. Every well-formed request gets an answer below 500 (except `/readyz`, which may answer 503). Broken HTTP gets a
4xx or a closed connection. Afterwards the scorer scores as before.
"""

from __future__ import annotations

import atexit
import functools
import json
import random
import shutil
import socket
import string
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serving.api.requests import EXAMPLE, SMALLEST
from tests.kits.scorer_process import running_scorer
from tests.kits.served_model import own_home, world

TRIALS = 100
REQUESTS = 10_000
AT_ONCE = 20
"""Requests pipelined on a connection before their answers are read."""
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        -0.0,
        1e308,
        5e-324,
        2**63,
        -(2**70),
        10**400,
        1.5,
        "",
        " ",
        "0",
        "NaN",
        "null",
    ),
    *(
        "\0",
        "\r\nx: y",
        "\ud800",
        "\U0001f511",
        "é",
        "a" * 129,
        "a" * 20_000,
        "*3\r\n$3\r\nDEL\r\n",
        "' or 1=1 --",
    ),
    *(
        "2026-11-22T04:19:55Z",
        "9999-12-31T23:59:59Z",
        "1970-01-01T00:00:00Z",
        "0000-00-00",
        "2026-11-22T04:19:55+99:99",
    ),
    *([], {}, [[[]]], {"a": {"b": {}}}, [1] * 50, "EUR", "eur", "PAYMENT", "CASH_IN"),
)
PATHS = (
    "/",
    "/score/",
    "//score",
    "/score?x=1",
    "/score%2f",
    "/sc%6fre",
    "/%ff%fe",
    "/../score",
    "/score;a=b",
    "/nowhere",
    "*",
)
ROUTES = ("/model", "/healthz", "/metrics", "/openapi.json", "/docs", "/redoc", "/readyz")
METHODS = ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "POST", "TRACE", "PROPFIND")


@functools.cache
def scorer() -> tuple[str, int]:
    """Start one scorer for all trials of this process."""
    stack = ExitStack()
    home = Path(tempfile.mkdtemp(prefix="millstream-fuzz-"))
    atexit.register(shutil.rmtree, home, True)
    atexit.register(stack.close)
    address = stack.enter_context(
        running_scorer(own_home(home), world().url, short=True, MILLSTREAM_DEADLINE_MS="2000")
    )
    where = urlsplit(address)
    assert where.hostname is not None
    assert where.port is not None
    return where.hostname, where.port


def trial(seed: int, requests: int = REQUESTS) -> str:
    """One trial; see the module."""
    draw = random.Random(seed)
    seen: Counter[str] = Counter()
    left = requests
    while left > 0:
        if draw.random() < 0.02:
            seen[_broken(draw)] += 1
            left -= 1
            continue
        batch = [_request(draw) for _ in range(min(AT_ONCE, left))]
        left -= len(batch)
        for status in _answers(batch):
            seen[status] += 1
    assert not any(status.startswith("5") for status in seen), seen
    status, body = _one(_post("/score", json.dumps(world().payment()).encode()))
    assert status == "200", body
    assert not json.loads(body)["degraded"], body
    return ", ".join(f"{status}: {n:,}" for status, n in sorted(seen.items()))


def _request(draw: random.Random) -> tuple[bytes, bool]:
    """A request as bytes, and whether it is a HEAD."""
    kind = draw.random()
    if kind < 0.25:
        return _post("/score", json.dumps(EXAMPLE | {"account_id": f"a-{draw.randrange(200):04d}"}).encode())
    if kind < 0.85:
        path = "/score/batch" if draw.random() < 0.1 else "/score"
        body = _body(draw)
        if path == "/score/batch" and draw.random() < 0.8:
            body = b'{"payments": [' + b",".join([body] * draw.randrange(4)) + b"]}"
        return _post(path, body, *_headers(draw), chunked=(draw.random() < 0.1 and draw) or None)
    method = draw.choice(METHODS)
    path = draw.choice(PATHS + ROUTES) if draw.random() < 0.8 else "/" + _text(draw, 40)
    body = _body(draw) if draw.random() < 0.3 else b""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n".encode()
    return head + b"".join(_headers(draw)) + b"\r\n" + body, method == "HEAD"


def _body(draw: random.Random) -> bytes:
    """A payment with wrong fields, sometimes no longer JSON."""
    payment = dict(draw.choice((EXAMPLE, SMALLEST)))
    for _ in range(draw.randrange(3)):
        payment[draw.choice([*EXAMPLE, "iban", "__proto__", ""])] = draw.choice(ODD)
    if draw.random() < 0.2:
        payment.pop(draw.choice(list(payment)), None)
    body = json.dumps(payment).encode()
    for _ in range(draw.choice((0, 0, 0, 1, 5))):
        at = draw.randrange(len(body) + 1)
        match draw.randrange(5):
            case 0:
                body = body[:at]
            case 1:
                body = body[:at] + draw.randbytes(draw.randrange(8)) + body[at:]
            case 2:
                body = body[:at] + body[at + draw.randrange(6) :]
            case 3:
                body = (
                    body[:at]
                    + draw.choice((b"NaN", b"-Infinity", b'"\\ud800"', b"1e999", b"\xff", b"[" * 300))
                    + body[at:]
                )
            case _:
                body += body[at:]
    return body


def _headers(draw: random.Random) -> list[bytes]:
    if draw.random() < 0.7:
        return []
    name = draw.choice(
        (
            b"authorization",
            b"x-api-key",
            b"accept",
            b"content-type",
            b"cookie",
            b"x-forwarded-for",
            b"accept-encoding",
        )
    )
    value = draw.choice(
        (b"Bearer x", b"*/*", b"", b"application/xml", b"\xff\xfe", b"a" * 3000, b"gzip;q=\xe9")
    )
    return [name + b": " + value + b"\r\n"]


def _post(
    path: str, body: bytes, *headers: bytes, chunked: random.Random | None = None
) -> tuple[bytes, bool]:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode() + b"".join(
        headers
    )
    if chunked is None or not body:
        return head + b"content-length: %d\r\n\r\n" % len(body) + body, False
    at = chunked.randrange(1, len(body) + 1)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:at], body[at:]) if part)
    return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n", False


def _broken(draw: random.Random) -> str:
    """Send bytes that are not a request; expect a 4xx or a closed connection."""
    whole, _ = _post("/score", json.dumps(SMALLEST).encode())
    at = draw.randrange(len(whole))
    sent = draw.choice(
        (
            draw.randbytes(draw.randrange(1, 2000)),
            whole[:at],
            whole[:at] + draw.randbytes(4) + whole[at:],
            b"POST /score HTTP/9.9\r\n\r\n",
            b"POST /score HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            b"POST /score HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 3000 + b"\r\n",
            b"GET /healthz HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        )
    )
    with socket.create_connection(scorer(), 20) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        try:
            said = client.recv(65_536)
        except ConnectionResetError:
            said = b""
    if not said:
        return "hung up"
    status = said[9:12].decode("latin-1")
    assert said.startswith(b"HTTP/1.1 "), (sent[:200], said[:200])
    assert status < "500", (sent[:200], said[:500])
    return status


def _answers(batch: list[tuple[bytes, bool]]) -> list[str]:
    """Send a batch pipelined; return the status of each request. A new connection is opened when an answer ends one."""
    found: list[str] = []
    together = True
    while len(found) < len(batch):
        before = len(found)
        todo = batch[before:] if together else batch[before : before + 1]
        with socket.create_connection(scorer(), 60) as client:
            reader = client.makefile("rb")
            client.sendall(b"".join(request for request, _ in todo))
            for request, is_head in todo:
                status, body = _answer(reader, is_head)
                if not status:
                    break
                ready = status == "503" and b"checks" in body
                assert status < "500" or ready, (request[:2000], body[:500])
                found.append("not ready" if ready else status)
        # A connection that is closed with requests unread takes answers with it: the one that ended it is asked alone.
        assert together or len(found) > before, batch[before][0][:2000]
        together = len(found) > before
    return found


def _one(request: tuple[bytes, bool]) -> tuple[str, bytes]:
    with socket.create_connection(scorer(), 60) as client:
        client.sendall(request[0])
        return _answer(client.makefile("rb"), request[1])


def _answer(reader: Any, is_head: bool) -> tuple[str, bytes]:
    """Status and body of the next answer; an empty status when the connection has ended."""
    try:
        first = reader.readline()
    except ConnectionResetError:
        first = b""
    if not first:
        return "", b""
    length = 0
    while (line := reader.readline()) not in {b"\r\n", b""}:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return first.split(b" ")[1].decode(), b"" if is_head else reader.read(length)


def _text(draw: random.Random, most: int) -> str:
    return "".join(draw.choice(string.ascii_letters + "%/.?=&~") for _ in range(draw.randrange(most)))
