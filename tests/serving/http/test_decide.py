"""Every refusal is the same, byte for byte, whichever way the request comes in; one row per case of `decide`."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from uvicorn import Config, Server

from serving import metrics
from serving.admission import api_keys
from serving.http.score_protocol import protocol
from tests.kits.scorer_process import running_scorer
from tests.kits.served_model import own_home, world

MATTER = ("content-type", "retry-after", "www-authenticate", "allow", "content-length")


@dataclass(frozen=True)
class Asked:
    """One request and the status of its refusal; `key` names an API key, or is sent as it is."""

    status: int
    method: str = "POST"
    path: str = "/score"
    body: bytes | None = None
    key: str = "all"
    full: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        payment = world().payment(**{"account_id": "a-1", "merchant_id": "m-1", **self.changes})
        return json.dumps({"payments": [payment] * 3} if self.path == "/score/batch" else payment).encode()


REFUSALS = {
    "no key": Asked(401, key=""),
    "unknown key": Asked(401, key="msk_nobody_nothing"),
    "no key for an unknown route": Asked(401, path="/nowhere", key=""),
    "wrong scope": Asked(403, key="model"),
    "wrong scope, batch": Asked(403, path="/score/batch", key="model"),
    "another tenant's account": Asked(403, key="tenant"),
    "another tenant's account, batch": Asked(403, path="/score/batch", key="tenant"),
    "unknown route": Asked(404, "GET", "/nowhere"),
    "a slash too many": Asked(307, path="/score/"),
    "wrong method": Asked(405, "GET"),
    "wrong method, batch": Asked(405, "DELETE", "/score/batch"),
    "wrong method, health": Asked(405, "POST", "/healthz"),
    "body over the limit of a payment": Asked(413, body=b" " * 3_000),
    "body over the limit of the short way": Asked(413, body=b" " * 30_000),
    "body over the limit of a batch": Asked(413, path="/score/batch", body=b" " * 6_000),
    "no body": Asked(422, body=b""),
    "malformed JSON": Asked(422, body=b'{"amount": 1,,'),
    "malformed UTF-8": Asked(422, body=b"\xff\xfe"),
    "another type of JSON": Asked(422, body=b"[1]"),
    "another content type with JSON that is none": Asked(
        422, body=b"<payment/>", headers={"content-type": "text/xml"}
    ),
    "missing and unknown fields": Asked(422, body=b'{"iban": "DE00"}'),
    "text for a number": Asked(422, changes={"amount": "12"}),
    "from the future": Asked(422, changes={"event_timestamp": "2199-01-01T00:00:00Z"}),
    "from the future, batch": Asked(
        422, path="/score/batch", changes={"event_timestamp": "2199-01-01T00:00:00Z"}
    ),
    "rate of the key": Asked(429, key="slow"),
    "rate of the key, invalid body": Asked(429, key="slow", body=b"{"),
    "rate of the key, batch": Asked(429, path="/score/batch", key="slow"),
    "full": Asked(503, full=True),
    "full, invalid body": Asked(503, full=True, body=b"{"),
    "full, large body": Asked(503, full=True, body=b" " * 30_000),
    "full, batch": Asked(503, full=True, path="/score/batch"),
    "full, but no key": Asked(401, full=True, key=""),
}


class Ways:
    """The same application behind `python -m serving`'s protocol, behind uvicorn's, and called directly."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.keys = {"": ""}
        made = []
        for name, tenant, scopes, accounts, rate in (
            ("all", "one", ("score", "model", "admin"), (), None),
            ("model", "two", ("model",), (), None),
            ("tenant", "three", ("score",), ("t3-",), None),
            ("slow", "four", ("score",), (), 0.001),
        ):
            key, told = api_keys.make(name, tenant, scopes, accounts, rate=rate, now=datetime.now(UTC))
            made.append(key)
            self.keys[name] = told
        api_keys.write(home / "api_keys.json", made)
        self.client = stack.enter_context(
            world().scorer(
                home=home, max_in_flight=1, max_body_bytes=2_000, max_batch_bytes=5_000, auth="keys"
            )
        )
        app: Any = self.client.app
        self.parts = app.state.parts
        self.ports = [
            stack.enter_context(
                _listening(Config(app, http=way, ws="none", lifespan="off", log_level="error"))
            )
            for way in (protocol(app), "httptools")
        ]

    def answers(self, asked: Asked) -> list[tuple[int, dict[str, str], bytes, dict[str, float]]]:
        """(status, headers that matter, body, what was counted), per way in."""
        headers = {"content-type": "application/json", **asked.headers}
        if asked.key:
            headers["authorization"] = f"Bearer {self.keys.get(asked.key, asked.key)}"
        self.parts.limiter.in_flight = int(asked.full)
        self.parts.authorizer._left.clear()
        if asked.key == "slow":
            key = self.parts.authorizer.keys.find(self.keys["slow"].encode())
            self.parts.authorizer.take_tokens(key)
        content = asked.content()
        said = []
        for way in (*(partial(_over_tcp, port) for port in self.ports), self._directly):
            before = _counts()
            status, named, body = way(asked, headers, content)
            counted = {
                name: n - before.get(name, 0) for name, n in _counts().items() if n != before.get(name, 0)
            }
            said.append((status, {k: v for k, v in named.items() if k in MATTER}, body, counted))
        self.parts.limiter.in_flight = 0
        return said

    def _directly(
        self, asked: Asked, headers: dict[str, str], content: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        answer = self.client.request(
            asked.method, asked.path, content=content, headers=headers, follow_redirects=False
        )
        return answer.status_code, dict(answer.headers), answer.content


@contextmanager
def _listening(config: Config) -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


def _over_tcp(
    port: int, asked: Asked, headers: dict[str, str], content: bytes
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(asked.method, asked.path, content, headers)
    answer = connection.getresponse()
    said = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return said


def _counts() -> dict[str, float]:
    """Requests and refusals so far, by metric and labels."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for metric in (metrics.REQUESTS, metrics.REFUSED, metrics.SHED)
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    with ExitStack() as stack:
        yield Ways(own_home(tmp_path_factory.mktemp("ways")), stack)


@pytest.mark.parametrize("asked", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_the_same_whichever_way_the_request_comes_in(ways: Ways, asked: Asked) -> None:
    short, ordinary, direct = ways.answers(asked)
    assert short[0] == asked.status
    assert short == ordinary == direct


def test_processes_refuse_as_the_application_does(tmp_path: Path) -> None:
    """`python -m serving` and `uvicorn serving.app:app`, as their users start them."""
    key, told = api_keys.make("all", "one", ("score", "admin"), now=datetime.now(UTC))
    headers = {"authorization": f"Bearer {told}", "content-type": "application/json"}
    names = ("no key", "unknown route", "wrong method", "malformed JSON", "from the future", "no body")
    answers = []
    for short in (True, False):
        home = own_home(tmp_path / str(short))
        api_keys.write(home / "api_keys.json", [key])
        with running_scorer(home, world().url, short=short) as address:
            port = int(address.rpartition(":")[2])
            answers.append(
                [
                    _over_tcp(port, asked, headers if asked.key else {}, asked.content())
                    for asked in map(REFUSALS.__getitem__, names)
                ]
            )
    for name, one, other in zip(names, *answers, strict=True):
        assert one[0] == REFUSALS[name].status
        assert (one[0], one[2]) == (other[0], other[2])
        assert {k: v for k, v in one[1].items() if k != "date"} == {
            k: v for k, v in other[1].items() if k != "date"
        }
