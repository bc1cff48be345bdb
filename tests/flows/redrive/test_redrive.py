"""Repaired dead letters go back onto the bus: each once, what is still bad by its line, late ones through a file."""

from __future__ import annotations

import base64
import json
import stat
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from flows.bootstrap import run
from flows.dead_letters import app as dead_letters_app
from flows.redrive.already_sent import SentLetters
from flows.redrive.command import app
from flows.settings import FlowSettings
from tests.kits.flow_output import log_rows, states_from_log, states_online
from tests.kits.flow_process import running_flow
from tests.kits.payments import encoded, payment, publish, write_lines
from tests.kits.views import apply_views
from tests.soak import redrive_kills

NOW = datetime.now(UTC).replace(microsecond=0)
KEY = "k1:" + base64.b64encode(bytes(range(32))).decode()


def redrive(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def exported(out: Path, *options: str) -> list[dict[str, Any]]:
    done = redrive("export", out, *options)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in out.read_bytes().splitlines()]


def write_back(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def on_the_bus(client: redis.Redis) -> list[dict[str, Any]]:
    return [
        json.loads(fields[b"v"])
        for partition in range(4)
        for _, fields in client.xrange(f"millstream:payments:{partition}")  # type: ignore[union-attr]
    ]


def dead_lettered(home: Path, payloads: list[bytes]) -> None:
    """Letters of a run over a file: quicker than a flow on the bus, and told in the same way."""
    path = write_lines(home / f"in-{time.monotonic_ns()}.jsonl", payloads)
    run("payments", FlowSettings(source_files=str(path), epoch_ms=50))


def broken(n: int, **changes: Any) -> bytes:
    return encoded(payment(n, NOW, event_id=f"b{n}", **{"amount": -1.0} | changes))


def test_repaired_letters_are_logged_once_and_what_is_still_bad_is_named(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = FlowSettings(redis_url=redis_url, epoch_ms=100)
    apply_views(settings)
    sent = [encoded(payment(n, NOW)) for n in range(20)]
    sent += [broken(1), broken(2), broken(3, currency="euro"), b'{"event_id": "cut o']
    sent += [encoded(payment(0, NOW)), encoded(payment(4, NOW - timedelta(hours=1), event_id="late4"))]
    publish(clean_redis, sent)
    with running_flow(settings) as process:
        process.wait_for_events(len(sent), 240)

        lines = exported(home / "letters.jsonl")
        assert Counter(line["reason"] for line in lines) == {
            "check": 3,
            "malformed": 1,
            "duplicate": 1,
            "late": 1,
        }
        assert stat.S_IMODE((home / "letters.jsonl").stat().st_mode) == 0o600
        for line in lines:
            if line["reason"] == "check":
                line["event"]["amount"] = 7.5
        path = write_back(home / "repaired.jsonl", lines)
        done = redrive("send", path)
        assert done.exit_code == 1
        assert "2 events published on the bus" in done.stdout
        still_bad = {
            n: line["reason"]
            for n, line in enumerate(lines, 1)
            if line["reason"] != "check" or line["event"]["currency"] == "euro"
        }
        said = [text.split(": ")[:2] for text in done.stderr.splitlines()]
        assert said == [[f"line {n}", reason] for n, reason in still_bad.items()]
        process.wait_for_events(len(sent) + 2, 240)

        again = redrive("send", path)
        assert "0 events published on the bus\n2 had been sent before" in again.stdout
        for line in lines:
            if line["reason"] == "check":
                line["event"]["currency"] = "EUR"
        assert (
            "1 events published on the bus\n2 had been sent before"
            in redrive("send", write_back(path, lines)).stdout
        )
        process.wait_for_events(len(sent) + 3, 240)

        late = home / "late.jsonl"
        assert "1 late events written to" in redrive("send", path, "--late-to", late).stdout
    run("payments", settings.model_copy(update={"source_files": str(late)}))
    ids = log_rows(settings)["event_id"].to_pylist()
    assert sorted(ids) == sorted([f"p{n:010d}" for n in range(20)] + ["b1", "b2", "b3", "late4"])
    assert states_online(clean_redis) == states_from_log(settings, clean_redis)
    assert "payments: 6 dead letters, 4 sent again" in redrive("list", "--stream", "payments").stdout
    assert clean_redis.keys("millstream:redriving:*") == []


def test_events_of_an_interrupted_run_are_not_sent_twice(
    home: Path, clean_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_lettered(home, [broken(n) for n in range(5)])
    lines = exported(home / "out.jsonl")
    for line in lines:
        line["event"]["amount"] = 1.0
    path = write_back(home / "repaired.jsonl", lines)
    with monkeypatch.context() as patched:
        patched.setattr(SentLetters, "record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        redrive("send", path)
    assert len(on_the_bus(clean_redis)) == 5
    assert "5 had been sent before" in redrive("send", path).stdout
    assert len(on_the_bus(clean_redis)) == 5
    clean_redis.flushall()
    assert "5 had been sent before" in redrive("send", path).stdout


def test_a_killed_send_continues_where_it_stopped() -> None:
    assert redrive_kills.trial(20261122, letters=1_200, kills=2)


def test_encrypted_letters_need_the_key(
    home: Path, clean_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLSTREAM_PSEUDONYM_KEY", KEY)
    dead_lettered(home, [broken(1, account_id="Ada Lovelace")])
    (line,) = exported(home / "out.jsonl")
    assert line["event"]["account_id"] == "Ada Lovelace"
    line["event"]["amount"] = 2.0
    assert redrive("send", write_back(home / "repaired.jsonl", [line])).exit_code == 0
    assert [event["account_id"] for event in on_the_bus(clean_redis)] == ["Ada Lovelace"]
    monkeypatch.setenv("MILLSTREAM_PSEUDONYM_KEY", KEY.replace("k1", "k2"))
    refused = redrive("export", home / "other.jsonl", "--again")
    assert refused.exit_code == 2
    assert "encrypted with the key 'k1'" in refused.output
    assert not (home / "other.jsonl").exists()


def test_payloads_that_are_not_json_objects_are_exported_as_text_or_base64(
    home: Path, clean_redis: redis.Redis
) -> None:
    bad = [
        b'{"event_id": "Zo\xc3\xab',
        b"\xff\xfe",
        b'{"amount": NaN}',
        b'{"a": "\\ud800"}',
        b"[1]",
        b'{"a": 1e999}',
    ]
    dead_lettered(home, bad)
    lines = sorted(exported(home / "out.jsonl"), key=lambda line: int(line["letter"].rpartition("/")[2]))
    assert [line.get("text") for line in lines] == ['{"event_id": "Zoë', None, *(b.decode() for b in bad[2:])]
    assert base64.b64decode(lines[1]["base64"]) == b"\xff\xfe"
    lines[0]["text"] = broken(1, amount=1.0).decode()
    lines[1]["event"] = json.loads(broken(2, amount=1.0))
    del lines[2]["text"]
    done = redrive("send", write_back(home / "repaired.jsonl", lines))
    assert "2 events published on the bus" in done.stdout
    assert "line 3: there is no `event`" in done.stderr
    assert {event["event_id"] for event in on_the_bus(clean_redis)} == {"b1", "b2"}


def test_lines_without_a_letter_of_this_home_are_rejected(home: Path, clean_redis: redis.Redis) -> None:
    dead_lettered(home, [broken(1), broken(2)])
    (line, other) = exported(home / "out.jsonl")
    line["event"]["amount"] = other["event"]["amount"] = 1.0
    other["event"]["event_id"] = line["event"]["event_id"]
    path = home / "repaired.jsonl"
    path.write_text(
        "\n".join(
            [
                json.dumps(line),
                "",
                json.dumps(line),
                "{",
                '{"event": {}}',
                json.dumps(line | {"letter": "payments/bus:payments:0/1"}),
                json.dumps(line | {"letter": "gifts/bus:gifts:0/1"}),
                json.dumps(other),
            ]
        )
    )
    dry = redrive("send", path, "--dry-run")
    assert "1 events would be published on the bus" in dry.stdout
    assert on_the_bus(clean_redis) == []
    done = redrive("send", path)
    assert [text.partition(":")[0] for text in done.stderr.splitlines()] == [
        f"line {n}" for n in (3, 4, 5, 6, 7, 8)
    ]
    assert "6 were rejected" in done.stdout
    assert len(on_the_bus(clean_redis)) == 1


def test_letters_are_chosen_by_reason_and_time(home: Path, clean_redis: redis.Redis) -> None:
    dead_lettered(home, [broken(1), b"{", b"}"])
    assert len(exported(home / "a.jsonl", "--reason", "malformed")) == 2
    assert len(exported(home / "b.jsonl", "--reason", "malformed", "--reason", "check")) == 3
    assert exported(home / "c.jsonl", "--since", "2020-01-01", "--reason", "check")[0]["reason"] == "check"
    assert exported(home / "d.jsonl", "--until", "2020-01-01") == []
    assert "malformed          2" in CliRunner().invoke(dead_letters_app, ["--stream", "payments"]).output
    assert redrive("export", home / "a.jsonl").exit_code == 2
    assert redrive("list", "--stream", "gifts").exit_code == 2


def test_an_unreachable_bus_is_reported_in_one_sentence(
    home: Path, clean_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_lettered(home, [broken(1)])
    exported(home / "out.jsonl")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    done = redrive("send", home / "out.jsonl")
    assert done.exit_code == 2
    assert "the bus did not accept the events" in done.stderr
