"""Erasure: nothing of an account is left in any byte, nothing brings it back, and nobody else loses anything."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.errors import RecoveryError, SettingsError
from flows import backfill_files
from flows.bootstrap import run
from flows.erase.command import erase
from flows.erase.files import ScoreFiles
from flows.erase.people import People
from flows.log.dead_letters import decrypt, read
from flows.privacy import tombstones
from flows.settings import FlowSettings
from flows.streams import STREAMS
from serving.outputs.score_log import ScoreLog
from tests.kits.erasure_world import (
    ALIKE,
    GONE,
    IN_FILE,
    NAMES,
    NOW,
    NOW_MS,
    OF_GONE,
    ORDER,
    PAYMENTS,
    PSEUDONYM,
    SENT,
    SETTING,
    UNREAD,
    World,
    build,
    charge,
    copied,
    customer,
    deliver,
    encoded,
    folded,
    hidden_forms,
    iso,
    label,
    letters,
    log_rows,
    online,
    pay,
    refold,
)
from tests.kits.flow_output import events_written
from tests.kits.flow_process import run_to_end, run_until, running_flow, start_process
from tests.kits.redis_server import rewrite_append_only_file
from tests.kits.text_scanner import Scanner

IDS = sorted({p["event_id"] for p in OF_GONE})
TEXTS = [GONE, PSEUDONYM, *IDS, "late-of-gone"]


class Everywhere(Scanner):
    """Also finds the binary forms in which states hold ids."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(texts)
        self._needles += [(kind, form) for kind, forms in hidden_forms().items() for form in forms]

    def hits(self, where: str, content: bytes) -> list[str]:
        return super().hits(where, content.replace(ALIKE.encode(), b""))


def hits(world: World, *, plain: bool = True) -> set[str]:
    """Places where something of the account is left; the tombstone is no place. Not `plain`: its id in a foreign
    column may stay.
    """
    scanner = Everywhere(TEXTS if plain else [text for text in TEXTS if text != GONE])
    found = scanner.home(world.home) + scanner.server(world.client)
    return {hit for hit in found if f" in erased/{stone(world).name}" not in hit}


def stone(world: World) -> Path:
    (path,) = (p for p in tombstones.folder(world.home).glob("*.json") if p.name != "bus.json")
    return path


def theirs(row: dict[str, Any]) -> bool:
    return PSEUDONYM in (row.get("account_id"), row.get("merchant_id")) or row.get("payment_id") in {
        *IDS,
        "late-of-gone",
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which everything has happened, and its server has stopped."""
    folder = tmp_path_factory.mktemp("erase")
    build(folder / "home", folder / "history.jsonl")
    return folder


@pytest.fixture
def world(original: Path, tmp_path: Path) -> Iterator[World]:
    with copied(original / "home", tmp_path / "home") as world:
        yield world


@pytest.fixture(scope="module")
def erased(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A copy from which the account was erased; the flows have not been started since."""
    with copied(original / "home", tmp_path_factory.mktemp("erased") / "home") as world:
        erase(world.settings, [GONE])
        yield world


def test_before_the_erasure_the_account_is_everywhere(world: World) -> None:
    found = hits_without_stone(world)
    for place in (
        "log/payments",
        "log/customers",
        "log/merchants",
        "log/charges",
        "log/labels",
        "scores/",
        "checkpoints/",
        "redis key",
        "skew.json",
    ):
        assert any(place in hit for hit in found), place
    for kind in (*hidden_forms(), repr(PSEUDONYM), repr(GONE), repr(IDS[0])):
        assert any(kind in hit for hit in found), kind


def hits_without_stone(world: World) -> list[str]:
    scanner = Everywhere(TEXTS)
    return scanner.home(world.home) + scanner.server(world.client)


def test_after_it_no_byte_of_home_or_server_is_about_the_account(erased: World) -> None:
    rewrite_append_only_file(erased.client)  # as commands, which compress nothing
    assert hits(erased) == set()


def test_the_servers_own_snapshot_holds_no_entry_that_was_removed(world: World) -> None:
    world.client.config_set("aof-use-rdb-preamble", "yes")  # as servers of one's own do by default
    world.client.config_set("rdbcompression", "no")
    erase(world.settings, [GONE])
    base = b"".join(p.read_bytes() for p in (world.home / "redis").rglob("*") if p.is_file())
    assert b"REDIS0" in base or b"VALKEY" in base  # the base of the append-only file is a snapshot
    assert Everywhere(TEXTS).hits("append-only file", base) == []


def test_only_reports_that_show_its_payments_are_removed(erased: World) -> None:
    assert not (erased.home / "skew.json").exists()
    assert (erased.home / "data_docs" / "index.html").exists()


def test_dead_letters_about_the_account_are_gone_and_others_stay(
    erased: World, original: Path, tmp_path: Path
) -> None:
    opened = [
        row["payload"]
        for stream in STREAMS.values()
        for table in read(stream, erased.settings)
        for row in decrypt(table, stream, NAMES).to_pylist()
    ]
    assert encoded(pay(8))[:-9] in opened
    assert encoded(pay(15)) in opened
    assert any(b'"like"' in payload for payload in opened)
    with copied(original / "home", tmp_path / "before") as before:
        count = sum(len(letters(before, stream)) for stream in ORDER)
    assert len(opened) == count - 7
    assert not any(GONE.encode() + b'"' in p or IDS[0].encode() in p for p in opened)


def test_everybody_elses_rows_and_scores_are_unchanged(erased: World, original: Path, tmp_path: Path) -> None:
    with copied(original / "home", tmp_path / "before") as before:
        for stream in ORDER:
            kept = [row for row in log_rows(before, stream) if not theirs(row)]
            assert kept == log_rows(erased, stream)
            assert kept or stream == "none"
        (old,) = before.settings.scores.glob("*.jsonl")
        (new,) = erased.settings.scores.glob("*.jsonl")
        lines = [line for line in old.read_bytes().splitlines() if PSEUDONYM.encode() not in line]
        assert new.read_bytes().splitlines() == lines
        names = {p.relative_to(before.home) for p in (before.home / "log").rglob("*.parquet")}
    assert names == {p.relative_to(erased.home) for p in (erased.home / "log").rglob("*.parquet")}


def test_flows_go_on_and_the_online_store_is_the_fold_of_what_is_left(world: World) -> None:
    before = {
        key: fields for key, fields in world.keys_and_values().items() if b"_state" not in b"".join(fields)
    }
    erase(world.settings, [GONE])
    left = events_written(world.settings, "payments")
    run_until(world.settings, left + sum(p not in OF_GONE for p in UNREAD), "payments", linger=0.5)
    refold(world)
    assert online(world) == folded(world)
    after = world.keys_and_values()
    assert {
        k: v
        for k, v in before.items()
        if PSEUDONYM.encode() not in k and not any(i.encode() in k for i in IDS)
    } == {k: v for k, v in after.items() if b"_state" not in b"".join(v)}
    assert hits(world) == set()


def test_neither_bus_nor_files_nor_backfill_bring_the_account_back(
    world: World, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase(world.settings, [GONE])
    counts = {stream: events_written(world.settings, stream) for stream in ORDER}
    for stream in ORDER:  # the producers send everything once more
        deliver(world, stream, SENT[stream], first_ms=NOW_MS + 200_000)
        fresh = sum(p not in OF_GONE for p in UNREAD) if stream == "payments" else 0
        run_until(world.settings, counts[stream] + fresh + len(SENT[stream]), stream, linger=0.5)
    monkeypatch.setenv("MILLSTREAM_PSEUDONYM_KEY", SETTING)
    monkeypatch.setenv("MILLSTREAM_KEY_SHARDS", "2")
    same = original / "history.jsonl"
    again = backfill_files.run(world.settings, payments=[same])["payments"]
    gone = sum(p in OF_GONE for p in IN_FILE)
    assert (again.events_in, again.logged) == (len(IN_FILE), len(IN_FILE) - gone)
    assert again.dead_lettered == {"erased": gone}
    other = tmp_path / "other.jsonl"  # other bytes: another source
    other.write_bytes(same.read_bytes() + encoded(pay(381)) + b"\n")
    counted = backfill_files.run(world.settings, payments=[other])["payments"]
    assert counted.events_in == counted.logged + sum(counted.dead_lettered.values())
    assert counted.dead_lettered["erased"] == gone
    late = tmp_path / "labels.jsonl"
    late.write_bytes(encoded(label(950, IDS[0], event_timestamp=iso(NOW + timedelta(days=9)))) + b"\n")
    assert backfill_files.run(world.settings, labels=[late])["labels"].dead_lettered == {"erased": 1}
    for stream in ORDER:
        assert not any(map(theirs, log_rows(world, stream)))
        assert all(row["payload"] is None for row in letters(world, stream) if row["reason"] == "erased")
    assert {row["reason"] for row in letters(world, "charges")} >= {"erased"}
    assert online(world) == folded(world)
    assert not any(PSEUDONYM.encode() in key for key in world.keys_and_values())
    assert not any("log/" in hit or "checkpoints/" in hit for hit in hits_without_stone(world))


def test_a_customer_who_comes_back_is_accepted_unless_erased_for_ever(world: World) -> None:
    erase(world.settings, [GONE])
    later = datetime.now(UTC) + timedelta(seconds=30)
    back = [encoded(customer(990, GONE, event_timestamp=iso(later))), encoded(customer(991, GONE))]
    count = events_written(world.settings, "customers")
    deliver(world, "customers", back, first_ms=int(later.timestamp() * 1000))
    run_until(world.settings, count + 2, "customers", linger=0.5)
    assert [row["event_id"] for row in log_rows(world, "customers") if theirs(row)] == ["c990"]
    assert letters(world, "customers")[-1]["reason"] == "erased"
    erase(world.settings, [GONE], forever=True)
    assert not any(map(theirs, log_rows(world, "customers")))
    far = later + timedelta(days=700)
    deliver(
        world,
        "customers",
        [encoded(customer(992, GONE, event_timestamp=iso(far)))],
        int(far.timestamp() * 1000),
    )
    run_until(world.settings, count + 3, "customers", linger=0.5)
    assert not any(map(theirs, log_rows(world, "customers")))


def test_it_refuses_while_a_flow_runs_and_says_which(world: World) -> None:
    with running_flow(world.settings, "labels") as process:
        process.wait_for(lambda: _locked(world))
        with pytest.raises(RecoveryError, match="the flow of labels must not run"):
            erase(world.settings, [GONE])
    assert not tombstones.folder(world.home).exists()


def _locked(world: World) -> bool:
    from flows.backfill import flow_runs

    return flow_runs(world.settings, "labels")


def test_another_key_is_refused_before_anything_is_looked_at(world: World) -> None:
    from pydantic import SecretStr

    other = world.settings.model_copy(update={"pseudonym_key": SecretStr("off")})
    with pytest.raises(SettingsError, match="two names"):
        erase(other, [GONE])


def _erase_and_die(world_settings: Any, steps: int) -> None:
    """Erase, and be killed before the step of that number."""
    seen = 0

    def on_step(place: str, done: int, of: int) -> None:
        nonlocal seen
        del place, done, of
        seen += 1
        if seen == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    erase(world_settings, [GONE], on_step=on_step)


def test_no_line_is_lost_of_a_scorer_that_goes_on_writing(tmp_path: Path) -> None:
    settings = FlowSettings(home=tmp_path)
    people = People([PSEUDONYM], [], NAMES)
    log = ScoreLog(settings.scores, NOW, flush_seconds=1.0, buffer=10)
    lines = [{"n": n, "account_id": PSEUDONYM if n % 3 == 0 else "other"} for n in range(600)]
    written = [json.dumps(line).encode() + b"\n" for line in lines]
    log._write(written[:30])

    def go_on() -> None:
        for n in range(30, 600, 2):
            log._write(written[n : n + 2])

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(go_on)
        while not writing.done():
            ScoreFiles(settings, people).erase(log.path)
        writing.result()
    ScoreFiles(settings, people).erase(log.path)
    left = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    assert left == [line for line in lines if line["account_id"] == "other"]


def steps_of_an_erasure(world: World) -> tuple[int, int]:
    """(steps until something is removed, all steps)."""
    seen: list[str] = []
    erase(world.settings, [GONE], on_step=lambda place, done, of: seen.append(place))
    return seen.index("checkpoints") + 1, len(seen)


@pytest.fixture(scope="module")
def steps(original: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    with copied(original / "home", tmp_path_factory.mktemp("steps") / "home") as world:
        return steps_of_an_erasure(world)


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_erasure_is_finished_by_running_it_again(
    world: World, steps: tuple[int, int], seed: int
) -> None:
    first, last = steps
    at = random.Random(seed).randint(first, last) if seed else last
    process = start_process(_erase_and_die, world.settings, at)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(RecoveryError, match="was interrupted"):
        run("payments", world.settings)
    if seed % 2:
        erase(world.settings, [GONE])
    else:
        erase(world.settings, names=[PSEUDONYM], resume=True)
    rewrite_append_only_file(world.client)
    assert hits(world, plain=bool(seed % 2)) == set()
    run_until(
        world.settings,
        events_written(world.settings, "payments") + sum(p not in OF_GONE for p in UNREAD),
        "payments",
        linger=0.5,
    )
    refold(world)
    assert online(world) == folded(world)


def command(world: World, *options: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    env = os.environ | {
        "MILLSTREAM_HOME": str(world.home),
        "REDIS_URL": world.settings.redis_url,
        "MILLSTREAM_PSEUDONYM_KEY": SETTING,
        "COLUMNS": "200",
    }
    line = [sys.executable, "-m", "flows.erase", *options]
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False)


def test_dry_run_counts_and_changes_nothing(world: World) -> None:
    before = {p: p.read_bytes() for p in (world.home / "log").rglob("*.parquet")}
    keys = world.keys_and_values()
    shown = command(world, "--account", GONE, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    logged = sum(GONE in (p["account_id"], p["merchant_id"]) for p in [*PAYMENTS, *IN_FILE])
    assert re.search(rf"log of payments\W+{logged}\b", shown.stdout)
    assert {p: p.read_bytes() for p in (world.home / "log").rglob("*.parquet")} == before
    assert world.keys_and_values() == keys
    assert not tombstones.folder(world.home).exists()


def test_command_line_asks_first_and_knows_a_pseudonym_when_it_sees_one(world: World) -> None:
    refused = command(world, "--account", PSEUDONYM, "--yes")
    assert refused.returncode == 2
    assert "looks like a pseudonym" in refused.stderr
    assert command(world, "--account", GONE).returncode == 1  # nobody answers
    assert not tombstones.folder(world.home).exists()
    done = command(world, "--pseudonym", PSEUDONYM, "--yes")
    assert done.returncode == 0, done.stderr
    assert GONE not in done.stdout + done.stderr
    assert hits(world, plain=False) == set()


def test_somebody_nobody_knows_leaves_a_tombstone_and_all_checkpoints(world: World) -> None:
    before = {p.name for p in (world.home / "checkpoints").rglob("*.npz")}
    assert erase(world.settings, ["NOBODY-77"]) == {}
    assert {p.name for p in (world.home / "checkpoints").rglob("*.npz")} == before
    assert json.loads(stone(world).read_text())["finished"] is True
    assert np.all([t.pseudonym == NAMES.of("NOBODY-77", "party") for t in tombstones.read(world.home)])
    run_to_end(world.settings.model_copy(update={"source_files": str(_one_charge(world))}), "charges")


def _one_charge(world: World) -> Path:
    path = world.home.parent / "charges.jsonl"
    path.write_bytes(encoded(charge(960, "somebody's")) + b"\n")
    return path
