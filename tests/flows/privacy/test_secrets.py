"""What a password reaches: the server it is for. Not the screen, not a log, not an error, not a `repr`."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
import typer
from typer.testing import CliRunner

from feature_repo.errors import MillstreamError, SettingsError
from feature_repo.redact import redact
from feature_repo.settings import PROJECT_ROOT, RepoSettings
from feature_repo.stores.online.feast_store import connection_string
from flows import backfill, retire, up
from flows.demo import __main__ as demo
from flows.erase import command as erase
from flows.generate import command as generate
from flows.process import logs, recovery
from flows.settings import FlowSettings
from flows.traffic import __main__ as traffic
from serving.settings import ScorerSettings
from tests.kits.views import apply_views

SECRET = "hunter2"
COMMANDS: dict[str, tuple[typer.Typer, list[str]]] = {
    "erase": (erase.app, ["--account", "a1", "--yes"]),
    "retire": (retire.app, []),
    "backfill": (backfill.app, []),
    "up": (up.app, ["--only-server"]),
    "demo": (demo.app, []),
    "generate": (generate.app, ["--to", "bus", "--seconds", "1"]),
    "traffic": (traffic.app, ["--seconds", "1", "--score", ""]),
}


@pytest.mark.parametrize(
    "text",
    [
        f"redis://flow:{SECRET}@db:6379/0",
        f"redis://:{SECRET}@db",
        f"rediss://flow:{SECRET}/@#@db:6379/0?x=1",
        f"unix:///run/v.sock?db=2&password={SECRET}",
        f"db:6379,ssl=true,password={SECRET},db=2",
        f"where REDIS_URL=redis://flow:{SECRET}@db:6379/0, and sasl.password={SECRET}",
    ],
)
def test_passwords_leave_every_text(text: str) -> None:
    assert SECRET not in redact(text)
    assert SECRET not in str(MillstreamError("it failed", where=text, todo=f"look at {text}"))
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text", ["redis://db:6379/0", "http://127.0.0.1:8000/docs", "a token: x", "mail a@b.c"]
)
def test_other_texts_stay(text: str) -> None:
    assert redact(text) == text


def test_settings_do_not_show_the_address_of_the_server(home: Path) -> None:
    for model in (RepoSettings, FlowSettings, ScorerSettings):
        made = model(redis_url=f"redis://flow:{SECRET}@db:6379/0")
        assert SECRET not in f"{made!r} {made}"
    for url in (f"redis://flow:{SECRET}/x@db:6379/0", f"redis://flow:{SECRET}#x@db:6379/0"):
        with pytest.raises(SettingsError) as refused:
            RepoSettings(redis_url=url)
        assert SECRET not in str(refused.value)


def test_feast_reads_user_password_and_tls_from_the_same_address() -> None:
    said = connection_string("rediss://us%40er:pa%3Ass@db.local/3?ssl_ca_certs=/ca.pem").split(",")
    assert {"username=us@er", "password=pa:ss", "ssl=true", "db=3", "ssl_ca_certs=/ca.pem"} < set(said)


def test_log_lines_lose_passwords_also_those_of_exceptions(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    try:
        logs.configure("json")
        log = structlog.get_logger()
        log.info("start", bus=f"redis://flow:{SECRET}@db:6379/0")
        try:
            {}[f"redis://flow:{SECRET}@db"]
        except KeyError:
            log.exception("failed")
    finally:
        structlog.configure(**before)
    said = capsys.readouterr().err
    assert said.count("***") >= 2
    assert SECRET not in said


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("reached", [False, True], ids=["no server", "wrong password"])
def test_no_command_says_the_password(
    name: str, reached: bool, home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = redis_url.removeprefix("redis://") if reached else "127.0.0.1:1/0"
    monkeypatch.setenv("REDIS_URL", f"redis://nobody:{SECRET}@{where}")
    monkeypatch.setattr(os, "nice", lambda _: 0)  # the commands' processes are this one
    apply_views(FlowSettings())
    app, options = COMMANDS[name]
    done = CliRunner().invoke(app, options)
    said = done.output + repr(done.exception)
    assert isinstance(done.exception, SystemExit), said
    assert done.exit_code in {1, 2}, said
    assert "invalid username-password" in said or "Connection refused" in said or name == "erase"
    assert SECRET not in said


def test_a_flow_does_not_log_it(home: Path) -> None:
    environment = os.environ | {"REDIS_URL": f"redis://nobody:{SECRET}@127.0.0.1:1/0"}
    apply_views(FlowSettings())
    command = [sys.executable, "-m", "bytewax.run", "flows.payments"]
    with subprocess.Popen(
        command,
        cwd=PROJECT_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as flow:
        assert flow.stdout is not None
        said = ""
        for line in flow.stdout:
            said += line
            if "127.0.0.1:1/0" in line:
                break
        flow.kill()
    assert "redis://nobody:***@127.0.0.1:1/0" in said
    assert SECRET not in said


def test_recovery_stores_are_for_their_owner_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        path = recovery.prepare(home / "recovery" / "payments-bus", 2)
        for folder in (path, path.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        path.chmod(0o777)
        path.parent.chmod(0o777)
        recovery.prepare(path, 2)
        for folder in (path, path.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        os.umask(before)
