"""Which clients the scorer answers: keys, scopes, tenants, rates and addresses, the same on both ways in."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from feature_repo import deprecated
from feature_repo.errors import SettingsError
from feature_repo.settings import PROJECT_ROOT
from flows.local.live import free_port
from serving import api_keys_cli, bootstrap
from serving.admission import api_keys
from serving.admission.authorize import Authorizer, Refused, is_loopback
from serving.api.requests import SMALLEST
from serving.app import create_app
from serving.http.routes import router
from serving.settings import ScorerSettings
from tests.kits.certificates import write_certificate
from tests.kits.scorer_process import running_scorer
from tests.kits.waiting import wait_until

NOW = datetime(2026, 11, 22, tzinfo=UTC)
ROUTES = [
    ("POST", "/score", "score"),
    ("POST", "/score/batch", "score"),
    ("GET", "/model", "model"),
    ("GET", "/readyz", "admin"),
    ("GET", "/metrics", "admin"),
    ("GET", "/openapi.json", "admin"),
    ("GET", "/docs", "admin"),
    ("GET", "/redoc", "admin"),
    ("GET", "/docs/oauth2-redirect", "admin"),
]


def add(home: Path, name: str, scopes: str = "score", *options: str) -> str:
    """Make a key as its owner does; returns it."""
    done = CliRunner().invoke(
        api_keys_cli.app,
        ["add", "--name", name, "--scopes", scopes, *options],
        env={"MILLSTREAM_HOME": str(home)},
    )
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def settings(home: Path, url: str, **changes: Any) -> ScorerSettings:
    return ScorerSettings(
        **{"home": home, "redis_url": url, "model_poll_seconds": 0, "score_log": False} | changes
    )


def scorer(home: Path, url: str, **changes: Any) -> TestClient:
    """A scorer without a model, in this process; use it as a context manager."""
    return TestClient(create_app(lambda: bootstrap.build(settings(home, url, **changes))))


def payload(path: str, **changes: Any) -> dict[str, Any] | None:
    payment = SMALLEST | changes
    return {"/score": payment, "/score/batch": {"payments": [payment]}}.get(path)


# The file


def test_a_key_is_printed_once_and_stored_as_a_hash(home: Path) -> None:
    told = add(home, "checkout", "score,model", "--tenant", "eu")
    file = home / "api_keys.json"
    text = file.read_text()
    assert told.startswith("msk_")
    secret = told.split("_", 2)[2]
    assert len(secret) == 52
    assert told not in text
    assert secret not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    listed = CliRunner().invoke(
        api_keys_cli.app, ["list"], env={"MILLSTREAM_HOME": str(home), "COLUMNS": "200"}
    )
    assert "checkout" in listed.stdout
    assert secret not in listed.stdout
    (key,) = api_keys.read(file).all
    assert secret not in repr(key)
    assert key.sha256 not in repr(key)
    assert (key.tenant, key.scopes) == ("eu", {"score", "model"})


def test_a_removed_key_is_gone_and_its_name_free(home: Path) -> None:
    add(home, "one")
    environment = {"MILLSTREAM_HOME": str(home)}
    twice = CliRunner().invoke(api_keys_cli.app, ["add", "--name", "one"], env=environment)
    assert (twice.exit_code, "two keys have the name 'one'" in twice.output) == (2, True)
    assert CliRunner().invoke(api_keys_cli.app, ["remove", "--name", "one"], env=environment).exit_code == 0
    assert CliRunner().invoke(api_keys_cli.app, ["remove", "--name", "one"], env=environment).exit_code == 2
    add(home, "one")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scopes", "score,root"], "not root"),
        (["--scopes", ""], "a key needs scopes"),
        (["--accounts", ""], "an empty prefix"),
        (["--rate", "0"], "a rate is a positive number"),
        (["--tenant", "b", "--accounts", "a-0012"], "overlap"),
        (["--tenant", "b", "--accounts", "a-"], "overlap"),
    ],
)
def test_a_key_with_wrong_options_is_not_created(home: Path, options: list[str], said: str) -> None:
    add(home, "first", "score", "--tenant", "a", "--accounts", "a-00")
    before = (home / "api_keys.json").read_bytes()
    done = CliRunner().invoke(
        api_keys_cli.app, ["add", "--name", "second", *options], env={"MILLSTREAM_HOME": str(home)}
    )
    assert done.exit_code == 2
    assert said in done.output
    assert (home / "api_keys.json").read_bytes() == before


def test_only_the_exact_key_is_found() -> None:
    made = [api_keys.make(f"k{i}", "t", ["score"], now=NOW) for i in range(20)]
    known = api_keys.Keys(key for key, _ in made)
    for key, told in made:
        assert known.find(told.encode()) is key
        for wrong in (
            told[:-1],
            told + "a",
            told.upper(),
            told.replace("msk", "mks"),
            told[4:],
            "",
            "__",
            "msk__",
        ):
            assert known.find(wrong.encode()) is None
        assert known.find(told.encode() + b"\xff") is None
    (one, told), (other, _) = made[:2]
    assert known.find(told.replace(one.id, other.id).encode()) is None


def test_a_damaged_or_world_writable_file_is_refused(home: Path) -> None:
    file = home / "api_keys.json"
    for text in ("", "[]", '{"keys": [{}]}', '{"keys": 7}', '{"keys": [7]}'):
        file.write_text(text)
        with pytest.raises(SettingsError, match="not a file of API keys"):
            api_keys.read(file)
    api_keys.write(file, [])
    file.chmod(0o666)
    with pytest.raises(SettingsError, match="world-writable"):
        api_keys.read(file)


# In front of the routes


def test_no_route_but_liveness_answers_without_a_key_or_without_the_scope(home: Path, redis_url: str) -> None:
    told = {scope: add(home, scope, scope) for scope in api_keys.SCOPES}
    with scorer(home, redis_url) as client:
        routes = [r for r in [*client.app.routes, *router.routes] if hasattr(r, "methods")]  # type: ignore[union-attr, attr-defined]
        routed = {(method, r.path) for r in routes for method in r.methods if method != "HEAD"}
        assert routed == {(m, p) for m, p, _ in ROUTES} | {("GET", "/healthz")}, "a new route: add it here"
        assert client.get("/healthz").status_code == 200
        for method, path, needed in [*ROUTES, ("GET", "/nowhere", "admin"), ("GET", "/healthz/", "admin")]:
            body = payload(path)
            for headers in (
                {},
                bearer("msk_00_00"),
                {"authorization": f"Basic {told[needed]}"},
                {"x-api-key": "x"},
            ):
                refused = client.request(method, path, json=body, headers=headers, follow_redirects=False)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), path
                assert set(refused.json()) == {"detail"}
            for scope, key in told.items():
                got = client.request(method, path, json=body, headers=bearer(key), follow_redirects=False)
                assert (got.status_code == 403) == (scope != needed), (path, scope, got.text)
                assert got.status_code in {200, 403, 404, 307, 503}
        assert client.post("/score", json=SMALLEST, headers={"x-api-key": told["score"]}).status_code == 200


def test_a_tenant_asks_about_its_own_payers_only(home: Path, redis_url: str) -> None:
    told = add(home, "eu", "score", "--tenant", "eu", "--accounts", "eu-", "--accounts", "uk-")
    add(home, "us", "score", "--tenant", "us", "--accounts", "us-")
    everything = add(home, "bank", "score")
    with scorer(home, redis_url) as client:

        def ask(key: str, *payments: dict[str, Any]) -> tuple[int, Any]:
            batch = client.post("/score/batch", json={"payments": payments}, headers=bearer(key))
            single = client.post("/score", json=payments[-1], headers=bearer(key))
            assert batch.status_code == single.status_code
            return batch.status_code, batch.json()["detail"] if batch.status_code != 200 else None

        mine = SMALLEST | {"account_id": "eu-1"}
        assert ask(told, mine)[0] == 200
        assert ask(told, SMALLEST | {"account_id": "uk-1", "merchant_id": "eu-1"})[0] == 200
        for theirs, column in (
            ({"account_id": "us-1"}, "account_id"),
            ({"account_id": "EU-1"}, "account_id"),
            ({"account_id": " eu-1"}, "account_id"),
            ({"account_id": "nobody"}, "account_id"),
            ({"merchant_id": "us-1"}, "merchant_id"),
        ):
            assert ask(told, mine, mine | theirs) == (403, f"this key may not ask about this {column}")
            assert ask(everything, mine, mine | theirs)[0] == 200


def test_a_key_over_its_rate_gets_retry_after(home: Path, redis_url: str) -> None:
    slow, other = add(home, "slow", "score", "--rate", "2"), add(home, "other")
    with scorer(home, redis_url, key_rate=0) as client:
        answers = [client.post("/score", json=SMALLEST, headers=bearer(slow)) for _ in range(4)]
        assert [a.status_code for a in answers][:2] == [200, 200]
        assert answers[3].status_code == 429
        assert answers[3].headers["retry-after"] == "1"
        assert "2 payments a second" in answers[3].json()["detail"]
        assert client.post("/score", json=SMALLEST, headers=bearer(other)).status_code == 200


def test_a_batch_counts_as_its_number_of_payments(home: Path) -> None:
    now = [0.0]
    authorizer = Authorizer(ScorerSettings(home=home, key_rate=10), api_keys.Keys(), clock=lambda: now[0])
    key, _ = api_keys.make("k", "t", ["score"], now=NOW)
    authorizer.take_tokens(key, 100)
    with pytest.raises(Refused) as refused:
        authorizer.take_tokens(key)
    assert refused.value.headers == {"retry-after": "10"}
    now[0] = 9.0
    with pytest.raises(Refused):
        authorizer.take_tokens(key)
    now[0] = 9.11
    authorizer.take_tokens(key)


def test_a_running_scorer_follows_the_file_and_a_damaged_file_changes_nothing(
    home: Path, redis_url: str
) -> None:
    file = home / "api_keys.json"
    with scorer(home, redis_url) as client:
        gate = client.app.state.parts.authorizer  # type: ignore[union-attr, attr-defined]

        def status(key: str = "") -> int:
            client.portal.call(gate.refresh)  # type: ignore[union-attr]
            return client.post("/score", json=SMALLEST, headers=bearer(key) if key else {}).status_code

        assert status() == 200
        one = add(home, "one")
        assert (status(), status(one)) == (401, 200)
        two = add(home, "two")
        assert (status(one), status(two)) == (200, 200)
        CliRunner().invoke(api_keys_cli.app, ["remove", "--name", "one"], env={"MILLSTREAM_HOME": str(home)})
        assert (status(one), status(two)) == (401, 200)
        file.write_text("{")
        assert (status(), status(two)) == (401, 200)
        file.unlink()
        assert (status(), status(two)) == (401, 200)


def test_without_keys_other_machines_are_not_answered(home: Path, redis_url: str) -> None:
    for auth, status in (("auto", 403), ("loopback", 403), ("none", 200)):
        with scorer(home, redis_url, auth=auth) as client:
            client.base_url = "http://10.1.2.3"  # type: ignore[assignment]  # the test client says it was reached there
            assert client.post("/score", json=SMALLEST).status_code == status
            assert client.get("/healthz").status_code == 200
            client.base_url = "http://127.0.0.1"  # type: ignore[assignment]
            assert client.post("/score", json=SMALLEST).status_code == 200
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("::ffff:10.0.0.1")
    assert not is_loopback("scorer.local", names=False)


def test_old_names_of_settings_are_read_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deprecated, "_warned", set())
    for old, new in (("off", "loopback"), ("open", "none")):
        with pytest.warns(FutureWarning, match=f"MILLSTREAM_AUTH={new}"):
            assert ScorerSettings(auth=old).auth == new  # type: ignore[arg-type]
    monkeypatch.setenv("MILLSTREAM_MOST_IN_FLIGHT", "7")
    with pytest.warns(FutureWarning, match="MILLSTREAM_MAX_IN_FLIGHT"):
        assert ScorerSettings().max_in_flight == 7


def test_it_does_not_start_for_other_machines_without_keys(home: Path) -> None:
    with pytest.raises(SettingsError, match="there are no API keys"):
        Authorizer.of(ScorerSettings(home=home, auth="keys"))
    for auth, starts in (("loopback", False), ("none", True)):
        authorizer = Authorizer.of(ScorerSettings(home=home, auth=auth))
        for host, allowed in (
            ("0.0.0.0", starts),
            ("::", starts),
            ("scorer.local", starts),
            ("localhost", True),
        ):
            if allowed:
                authorizer.require_keys_beyond_loopback(host)
            else:
                with pytest.raises(SettingsError, match="would answer anybody"):
                    authorizer.require_keys_beyond_loopback(host)
    done = subprocess.run(
        [sys.executable, "-m", "serving", "--host", "0.0.0.0"],
        cwd=PROJECT_ROOT,
        env=os.environ | {"MILLSTREAM_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "python -m serving.api_keys_cli add" in done.stderr
    assert "Traceback" not in done.stderr
    add(home, "first")
    Authorizer.of(ScorerSettings(home=home)).require_keys_beyond_loopback("0.0.0.0")


# Real processes


def ask(
    address: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    where = urlsplit(address)
    trusting = ssl._create_unverified_context()
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection(where.netloc, timeout=20, context=trusting)
        if where.scheme == "https"
        else http.client.HTTPConnection(where.netloc, timeout=20)
    )
    content = body if isinstance(body, bytes) else json.dumps(body)
    connection.request(method, path, content if body is not None else None, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    said = json.loads(content) if answer.headers["content-type"] == "application/json" else content
    return answer.status, said


@pytest.fixture(scope="module")
def both(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Addresses of the short way and of the ordinary one, which share a file of keys."""
    home = tmp_path_factory.mktemp("keyed")
    told = {
        "score": add(home, "score"),
        "model": add(home, "model", "model"),
        "eu": add(home, "eu", "score", "--tenant", "eu", "--accounts", "eu-"),
        "slow": add(home, "slow", "score", "--rate", "0.1"),
        "slower": add(home, "slower", "score", "--rate", "0.1"),
    }
    with ExitStack() as stack:
        yield (
            [stack.enter_context(running_scorer(home, redis_url, short=short)) for short in (True, False)],
            told,
        )


def test_both_ways_accept_the_same_keys(both: tuple[list[str], dict[str, str]]) -> None:
    addresses, told = both
    asked: list[tuple[int, dict[str, str], Any]] = [
        (200, bearer(told["score"]), SMALLEST),
        (200, {"Authorization": f"bearer  {told['score']} "}, SMALLEST),
        (200, {"X-Api-Key": told["score"]}, SMALLEST),
        (401, {}, SMALLEST),
        (401, bearer(told["score"][:-1]), SMALLEST),
        (401, bearer("x" * 10_000), SMALLEST),
        (401, bearer("ÿ"), SMALLEST),
        (401, {}, b"{"),
        (401, {}, b" " * 100_000),
        (403, bearer(told["model"]), SMALLEST),
        (403, bearer(told["eu"]), SMALLEST),
        (200, bearer(told["eu"]), SMALLEST | {"account_id": "eu-1"}),
        (422, bearer(told["eu"]), SMALLEST | {"colour": "red"}),
        (413, bearer(told["score"]), b" " * 65_537),
        (422, bearer(told["score"]), b" " * 65_536),
    ]
    for expected, headers, body in asked:
        (short, said), (ordinary, other) = (ask(a, "POST", "/score", body, headers) for a in addresses)
        assert short == ordinary == expected, (headers, said, other)
        if expected != 200:
            assert said == other
    batch = {"payments": [SMALLEST] * 1000}
    assert len(json.dumps(batch)) > 65_536
    assert ask(addresses[0], "POST", "/score/batch", batch, bearer(told["score"]))[0] == 200


def test_both_ways_count_against_the_rate(both: tuple[list[str], dict[str, str]]) -> None:
    addresses, told = both
    for address, name in zip(addresses, ("slow", "slower"), strict=True):
        assert [ask(address, "POST", "/score", SMALLEST, bearer(told[name]))[0] for _ in range(3)] == [
            200,
            429,
            429,
        ]


@pytest.mark.parametrize("short", [True, False], ids=["short", "ordinary"])
def test_a_key_removed_while_a_body_is_sent_is_refused(short: bool, home: Path, redis_url: str) -> None:
    add(home, "stays")
    leaving = bearer(add(home, "leaves", "score", "--tenant", "eu", "--accounts", "eu-"))
    with running_scorer(home, redis_url, short=short) as address, ExitStack() as stack:
        asked = []
        for path in ("/score", "/score/batch"):
            assert ask(address, "POST", path, payload(path, account_id="eu-1"), leaving)[0] == 200
            body = json.dumps(payload(path, account_id="eu-1")).encode()
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
            stack.callback(connection.close)
            connection.putrequest("POST", path)
            connection.putheader("authorization", leaving["authorization"])
            connection.putheader("content-length", f"{len(body)}")
            connection.endheaders(body[:10])
            asked.append((connection, body[10:]))
        CliRunner().invoke(
            api_keys_cli.app, ["remove", "--name", "leaves"], env={"MILLSTREAM_HOME": str(home)}
        )
        wait_until(lambda: ask(address, "POST", "/score", SMALLEST, leaving)[0] == 401)
        for connection, rest in asked:
            connection.send(rest)
            assert connection.getresponse().status == 401


def test_https_an_admin_port_and_no_docs_in_production(redis_url: str, home: Path) -> None:
    write_certificate(home / "tls.pem")
    admin = free_port()
    with running_scorer(
        home,
        redis_url,
        short=True,
        MILLSTREAM_TLS_CERT=str(home / "tls.pem"),
        MILLSTREAM_ADMIN_PORT=str(admin),
        MILLSTREAM_ENV="production",
    ) as address:
        public, private = address.replace("http:", "https:"), f"https://127.0.0.1:{admin}"
        assert ask(public, "POST", "/score", SMALLEST)[0] == 200
        assert ask(private, "POST", "/score", SMALLEST) == (404, {"detail": "Not Found"})
        assert ask(public, "GET", "/metrics")[0] == ask(public, "GET", "/model")[0] == 404
        assert ask(private, "GET", "/metrics")[0] == 200
        assert "no model is loaded" in ask(private, "GET", "/model")[1]["detail"]
        for at in (public, private):
            assert ask(at, "GET", "/healthz")[0] == 200
            assert ask(at, "GET", "/readyz")[0] == 503
            assert [ask(at, "GET", path)[0] for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3
