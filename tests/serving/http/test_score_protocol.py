"""`python -m serving` answers what `uvicorn serving.app:app` answers, whatever is sent and however it arrives."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from uvicorn import Config, Server

from serving.http.score_protocol import protocol
from tests.docs.test_redis_rights import as_user, documented
from tests.kits.scorer_process import running_scorer
from tests.kits.served_model import own_home, world
from tests.soak import fuzz_http, tenants

VARIES = {"score_id"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of the short way and of the ordinary one."""
    homes = [own_home(tmp_path_factory.mktemp(name)) for name in ("short", "ordinary")]
    url = world().url
    with running_scorer(homes[0], url, short=True) as short, running_scorer(homes[1], url) as ordinary:
        yield short, ordinary


def ask(address: str, method: str, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request(method, path, body, {"content-type": "application/json"} | headers)
    answer = connection.getresponse()
    said = json.loads(answer.read() or b"null")
    if isinstance(said, dict):
        said = {k: v for k, v in said.items() if k not in VARIES}
    named = {k.lower(): v for k, v in answer.getheaders()} | {"content-length": ""}
    return answer.status, {k: v for k, v in named.items() if k not in {"date", "location"}}, said


BODIES: dict[str, Any] = {
    "a payment": {},
    "an unknown account": {"account_id": "nobody"},
    "a large amount": {"amount": 1e9},
    "text for a number": {"amount": "12"},
    "an unknown field": {"iban": "DE00"},
    "no time zone": {"event_timestamp": "2026-11-20T10:00:00"},
    "the far future": {"event_timestamp": "2199-01-01T00:00:00Z"},
    "names too long": {"device_id": "d" * 20_000},
}


@pytest.mark.parametrize("changes", BODIES.values(), ids=BODIES)
def test_both_ways_answer_the_same(both: tuple[str, str], changes: dict[str, Any]) -> None:
    body = json.dumps(world().payment(**changes)).encode()
    short, ordinary = (ask(address, "POST", "/score", body) for address in both)
    assert short == ordinary


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b" " * 3_000_000])
def test_both_ways_refuse_the_same(both: tuple[str, str], body: bytes) -> None:
    short, ordinary = (ask(address, "POST", "/score", body) for address in both)
    assert short == ordinary
    assert short[0] in {413, 422}


def test_other_methods_and_routes_are_answered_the_same(both: tuple[str, str]) -> None:
    for method, path in (("GET", "/score"), ("POST", "/score/"), ("GET", "/model"), ("GET", "/nowhere")):
        short, ordinary = (ask(address, method, path, b"") for address in both)
        assert short == ordinary


def test_bodies_in_pieces_and_pipelined_requests_are_answered(both: tuple[str, str]) -> None:
    body = json.dumps(world().payment()).encode()
    head = (
        b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        % len(body)
    )
    chunked = (
        b"POST /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(body), body)
    )
    for address in both:
        netloc = urlsplit(address)
        with socket.create_connection((netloc.hostname, netloc.port), 20) as client:
            client.sendall(head + b"\r\n" + body[:10])
            time.sleep(0.05)
            client.sendall(
                body[10:] + (head + b"\r\n" + body) * 3 + chunked
            )  # three more at once, before the first answer
            client.sendall(
                head + b"expect: 100-continue\r\n\r\n" + body + head + b"connection: close\r\n\r\n" + body
            )
            said = b""
            while part := client.recv(65_536):
                said += part
        assert said.count(b"HTTP/1.1 200 OK") == 7
        assert said.count(b'"degraded":false') == 7
        assert said.count(b"connection: close") == 1


def test_an_offer_of_http_2_is_ignored(both: tuple[str, str]) -> None:
    """As Java's HttpClient makes it, with head and body in two packets; uvicorn's own protocol loses the body."""
    body = json.dumps(world().payment()).encode()
    head = b"POST /score HTTP/1.1\r\nconnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\ncontent-length: %d\r\n\r\n"
    netloc = urlsplit(both[0])
    with socket.create_connection((netloc.hostname, netloc.port), 20) as client:
        for _ in range(2):
            client.sendall(head % len(body))
            time.sleep(0.05)
            client.sendall(body)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.status == 200
            assert json.loads(answer.read())["degraded"] is False
        # A chunk that begins like that header is a payment's, as it is.
        first, name, rest = json.dumps(world().payment(event_id="an upgrade: 1")).partition("upgrade")
        pieces = (first.encode(), (name + rest).encode())
        client.sendall(
            b"POST /score HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
            + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            + b"0\r\n\r\n"
        )
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert json.loads(answer.read())["event_id"] == "an upgrade: 1"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Where a scorer listens (`serving.http.score_protocol`) whose door is full."""
    with world().scorer(home=own_home(tmp_path), max_in_flight=1) as client, socket.socket() as listening:
        app: Any = client.app
        app.state.parts.limiter.acquire()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = Server(Config(app, http=protocol(app), ws="none", lifespan="off", log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join(20)


def test_pipelined_requests_are_refused_in_turn_with_those_of_other_clients(
    full: tuple[str, int],
) -> None:
    one = b"POST /score HTTP/1.1\r\n\r\n"  # nobody looks for a body; all of them are one read
    alive = b"GET /healthz HTTP/1.1\r\n\r\n"
    with socket.create_connection(full, 20) as client, socket.create_connection(full, 20) as other:
        client.sendall(alive + one * 1_000 + alive)
        other.sendall(one)
        assert other.recv(65_536).startswith(b"HTTP/1.1 503")
        said = b""
        while said.count(b'{"status":"alive"}') < 2:
            said += client.recv(65_536)
    assert said.count(b"HTTP/1.1 503") == said.count(b"retry-after: 1") == 1_000
    assert said.count(b"HTTP/1.1 200") == 2


def test_a_client_that_still_sends_when_refused_reads_the_answer(full: tuple[str, int]) -> None:
    body = b" " * 1_500_000
    connection = http.client.HTTPConnection(*full, timeout=20)
    connection.putrequest("POST", "/score/batch")
    connection.putheader("connection", "close")
    connection.putheader("content-length", f"{len(body)}")
    connection.endheaders()
    time.sleep(0.1)
    connection.send(body)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def test_the_short_way_counts_and_logs_its_answers(tmp_path: Path) -> None:
    home = own_home(tmp_path)
    body = json.dumps(world().payment()).encode()
    with running_scorer(home, world().url, short=True, MILLSTREAM_SCORE_LOG_FLUSH_MS="20") as address:
        for _ in range(3):
            assert ask(address, "POST", "/score", body)[0] == 200
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
        connection.request("GET", "/metrics")
        counted = connection.getresponse().read().decode()
        assert 'millstream_scorer_requests_total{route="/score",status="200"} 3.0' in counted
        assert 'millstream_scorer_request_seconds_count{route="/score"} 3.0' in counted
    assert sum(len(path.read_bytes().splitlines()) for path in (home / "scores").glob("*.jsonl")) == 3


def test_no_random_request_is_answered_with_a_server_error() -> None:
    fuzz_http.trial(0, requests=2_000)


def test_a_thousand_tries_at_another_tenant_s_accounts_read_nothing() -> None:
    for seed in range(tenants.TRIALS):
        tenants.trial(seed)


def test_a_scorer_needs_no_more_rights_on_the_server_than_documented(tmp_path: Path) -> None:
    client = world().client
    for user, rights in documented().items():
        client.execute_command("ACL", "SETUSER", user, *rights)
    client.execute_command("ACL", "LOG", "RESET")
    home, url = own_home(tmp_path), as_user(world().url, "scorer")
    with running_scorer(home, url, short=True, MILLSTREAM_PENDING_SECONDS="60") as address:
        new = {k: v for k, v in world().payment(event_id="not folded yet").items() if k != "event_timestamp"}
        for path, body in (("/score", new), ("/score/batch", {"payments": [new]})):
            for _ in range(2):
                status, _, said = ask(address, "POST", path, json.dumps(body).encode())
                assert status == 200
                assert not (said if path == "/score" else said["answers"][0])["degraded"]
        assert ask(address, "GET", "/readyz", b"")[0] == 200
    pending = client.keys("millstream:pending:*")
    assert pending
    client.delete(*pending)
    assert client.execute_command("ACL", "LOG") == []
    assert b"pa:ss" not in (tmp_path / "uvicorn.log").read_bytes()
