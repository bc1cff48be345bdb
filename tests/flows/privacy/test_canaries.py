"""Canaries: names, addresses, numbers and accounts that are sent through everything, and must be found nowhere
afterwards.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import redis
import xgboost as xgb
from pydantic import SecretStr

from feature_repo.privacy import Pseudonyms
from feature_repo.stores.applied_views import AppliedViews, PlainSpec
from feature_repo.stores.reader.plan import Plan, WindowedRead
from flows.local.live import free_port
from flows.local.redis_server import EmbeddedServer
from flows.log.dead_letters import decrypt, read
from flows.settings import FlowSettings
from flows.streams import STREAMS
from tests.kits.flow_process import running_flow
from tests.kits.payments import payment
from tests.kits.redis_server import rewrite_append_only_file
from tests.kits.scorer_process import running_scorer
from tests.kits.text_scanner import Scanner
from tests.kits.views import VIEWS, apply_views
from tests.kits.waiting import wait_until
from training import artefact, export

KEY = bytes((7 * n + 3) % 256 for n in range(32))
SECRET = base64.b64encode(KEY).decode()
SETTING = f"kc:{SECRET}"

NAME = "Quirina Überschwan-Zabel"
EMAIL = "quirina.zabel+canary@mail.example"
PHONE = "+4915799004711"
BORN = "1903-02-28"
PAYER = "ACCT-CANARY-88001"
PAYEE = "ACCT-CANARY-99002"
SHOP = "SHOP-CANARY-31"
CANARIES = (NAME, EMAIL, PHONE, PHONE[1:], BORN, PAYER, PAYEE, SHOP)
SECRETS = (SECRET, KEY.decode("latin-1"), KEY.hex())

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=3)
"""When everything was published: long enough ago for the bus to be cleared."""


def iso(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def event(stream: str, number: int, **changes: Any) -> dict[str, Any]:
    """A good event of a stream, canaries in every personal column; `...` leaves a field out."""
    at = iso(NOW + timedelta(milliseconds=number))
    made: dict[str, dict[str, Any]] = {
        "payments": payment(number) | {"event_timestamp": at, "account_id": PAYER, "merchant_id": SHOP},
        "labels": {
            "label_id": f"l{number}",
            "event_timestamp": at,
            "payment_id": f"p{number:010d}",
            "is_fraud": True,
            "labeler": "analyst",
            "account_id": PAYER,
            "merchant_id": PAYEE,
        },
        "customers": {
            "event_id": f"c{number}",
            "event_timestamp": at,
            "account_id": PAYER,
            "home_latitude": 48.1,
            "home_longitude": 11.5,
            "email": EMAIL,
            "phone": PHONE,
            "name": NAME,
            "birth_date": BORN,
            "segment": "standard",
            "opened_at": "2019-05-04T00:00:00Z",
        },
        "merchants": {
            "event_id": f"m{number}",
            "event_timestamp": at,
            "merchant_id": SHOP,
            "category": "grocery",
            "latitude": 48.2,
            "longitude": 11.6,
            "risk_tier": "low",
            "opened_at": "2018-01-01T00:00:00Z",
        },
        "charges": {
            "event_id": f"h{number}",
            "event_timestamp": at,
            "payment_id": f"p{number:010d}",
            "card_network": "visa",
            "entry_mode": "chip",
            "three_ds_result": "none",
            "issuer_country": "DE",
        },
    }
    return {k: v for k, v in (made[stream] | changes).items() if v is not ...}


def encoded(made: dict[str, Any]) -> bytes:
    return json.dumps(made, ensure_ascii=False).encode()


def traffic(stream: str) -> list[bytes]:
    """Good events, then every way of not being accepted, each with canaries wherever they could be."""
    key = "merchant_id" if stream == "merchants" else "payment_id" if stream == "charges" else "account_id"
    good = [event(stream, n) for n in range(4)]
    if stream == "payments":
        good.append(event(stream, 4, type="TRANSFER", merchant_id=PAYEE))
    identity = STREAMS[stream].id_column
    bad: list[bytes] = [
        encoded(event(stream, 20))[:-9],  # cut off
        encoded({"note": [NAME, EMAIL]} | event(stream, 21))[1:],
        b"\xff" + NAME.encode() + b"\xfe" + EMAIL.encode(),
        f"{NAME};{PAYER};{EMAIL};{PHONE}".encode(),
        json.dumps([NAME, PAYER]).encode(),
        json.dumps(NAME).encode(),
        encoded(event(stream, 22, **{identity: ..., "name": NAME, "email": EMAIL})),
        encoded(event(stream, 23, event_timestamp=f"{NAME} {BORN}")),
        encoded(event(stream, 24, event_timestamp=int(PHONE))),
        encoded(event(stream, 25, **{key: {"name": NAME, "id": PAYER}})),
        encoded(event(stream, 26, **{key: int(PHONE)})),
        encoded(event(stream, 27, **{key: [PAYER]})),
        encoded(event(stream, 28, **{key: PAYER + "x" * 300})),
        encoded(event(stream, 29, **{key: ""}) | {"email": EMAIL}),
        encoded(event(stream, 30, event_timestamp=iso(NOW - timedelta(hours=2)), **{key: PAYER})),
        encoded(event(stream, 31, event_timestamp=iso(NOW + timedelta(hours=2)), **{key: PAYEE})),
        encoded(event(stream, 0)),  # a second time
    ]
    for n, field_ in enumerate(STREAMS[stream].schema):
        if field_.name not in {identity, "event_timestamp"}:
            wrong: Any = NAME if field_.type != pa.string() else {"of": [NAME, PHONE]}
            bad.append(encoded(event(stream, 40 + n, **{field_.name: wrong})))
    shuffled = {
        "payments": {"currency": NAME, "type": EMAIL},
        "customers": {"segment": EMAIL, "home_latitude": 200.0},
        "merchants": {"risk_tier": NAME},
        "labels": {"fraud_type": NAME},
        "charges": {"card_network": NAME},
    }[stream]
    bad.append(encoded(event(stream, 90, **shuffled)))  # columns mixed up by the producer
    return [encoded(made) for made in good] + bad


def write_model(home: Path) -> None:
    """A small model over the test's views, without Feast's registry."""
    specs = VIEWS.streams["payments"]
    columns = tuple((a.name, "float64") for spec in specs for a in spec.aggregates)
    plan = Plan(
        VIEWS.project, "canaries", tuple(WindowedRead(s, s.join_keys) for s in specs), (), (), (), columns
    )
    rng = np.random.default_rng(5)
    matrix = rng.random((200, len(columns)), np.float32) * 100
    names = list(plan.feature_names)
    booster = xgb.train(
        {"max_depth": 2, "objective": "binary:logistic", "base_score": 0.5, "nthread": 1},
        xgb.DMatrix(matrix, matrix[:, 0] > 50, feature_names=names),
        4,
    )
    exported = export.export(booster, matrix)
    scores = export.predict(exported.onnx, matrix)
    manifest = {
        "name": "fraud_detection",
        "created": "2026-11-22T04:19:55+00:00",
        "service": "canaries",
        "schema_hash": plan.schema_hash,
        "features": names,
        "onnx": {"input": export.INPUT, "output": export.OUTPUT, "fraud_column": 1},
        "threshold": {"review": 0.0, "decline": 1.0},
        "metrics": {},
        "data": {},
        "golden": export.golden(exported.onnx, matrix, scores),
    }

    def fill(building: Path) -> None:
        (building / "model.onnx").write_bytes(exported.onnx)
        plan.save(building / "plan.json")

    folder = home / "models" / "fraud_detection"
    artefact.write(folder, "20261122T041955Z-00000001", manifest, fill)
    artefact.promote(folder, "20261122T041955Z-00000001")


def get(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        return error.read()


def post(address: str, body: bytes, path: str = "/score") -> tuple[int, bytes]:
    asked = urllib.request.Request(address + path, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@dataclass
class World:
    """What was sent, and what could be read from outside while everything ran."""

    home: Path
    settings: FlowSettings
    client: redis.Redis
    sent: dict[str, int] = field(default_factory=dict)
    outside: dict[str, bytes] = field(default_factory=dict)
    answers: list[tuple[int, bytes]] = field(default_factory=list)


def _rows(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))


def _flows(made: World) -> None:
    """All five flows over their canaries until the bus is empty."""
    for stream in STREAMS:
        payloads = traffic(stream)
        made.sent[stream] = len(payloads)
        for n, payload in enumerate(payloads):
            identity = f"{int(NOW.timestamp() * 1000) + 1000 + n}-0"
            made.client.xadd(f"millstream:{stream}:0", {"v": payload}, id=identity)
    (made.home / "logs").mkdir()
    ports = {stream: free_port() for stream in STREAMS}
    with contextlib.ExitStack() as stack:
        running = {}
        for stream, port in ports.items():
            settings = made.settings.model_copy(update={"metrics_port": port})
            log = made.home / "logs" / f"{stream}.log"
            running[stream] = stack.enter_context(running_flow(settings, stream, output=log))
        for stream, flow in running.items():
            flow.wait_for_events(made.sent[stream], 120)
        for stream, flow in running.items():
            flow.wait_for(lambda: made.client.xlen(f"millstream:{stream}:0") == 0)  # noqa: B023
        for stream, port in ports.items():
            made.outside[f"metrics of {stream}"] = get(f"http://127.0.0.1:{port}/metrics")


def _scores(made: World) -> None:
    """Good, refused and degraded requests; then all that a scorer tells."""
    good = event("payments", 200, event_timestamp=...)
    with running_scorer(
        made.home,
        made.settings.redis_url,
        MILLSTREAM_PSEUDONYM_KEY=SETTING,
        MILLSTREAM_ACCESS_LOG="true",
        MILLSTREAM_MODEL_POLL_SECONDS="0.2",
        MILLSTREAM_SCORE_LOG_FLUSH_MS="20",
        MILLSTREAM_DEADLINE_MS="5000",
    ) as address:
        made.answers.append(post(address, encoded(good)))  # no model yet: the fallback decides
        write_model(made.home)
        wait_until(lambda: b'"model","ok":true' in get(f"{address}/readyz").replace(b" ", b""))
        for changes in ({}, {"type": "TRANSFER", "merchant_id": PAYEE}, {"account_id": "ACCT-NEW"}):
            made.answers.append(post(address, encoded(good | changes)))
        made.answers.append(post(address, encoded({"payments": [good, good]}), "/score/batch"))
        for changes in (
            {"account_id": {"name": NAME}},
            {"account_id": int(PHONE)},
            {"account_id": PAYER + "x" * 300},
            {"amount": NAME},
            {"currency": EMAIL},
            {"type": PAYEE},
            {"event_timestamp": BORN},
            {"event_timestamp": iso(datetime.now(UTC) + timedelta(days=1))},
            {"note": NAME},
            {"event_id": None},
        ):
            made.answers.append(post(address, encoded(good | changes)))
            made.answers.append(post(address, encoded({"payments": [good | changes]}), "/score/batch"))
        for body in (
            encoded(good)[:-5],
            NAME.encode(),
            json.dumps([PAYER]).encode(),
            b"\xff" + PAYER.encode(),
        ):
            made.answers.append(post(address, body))
        for page in ("/metrics", "/readyz", "/model"):
            made.outside[page] = get(address + page)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("canaries") / "home"
    with EmbeddedServer(home) as server:
        settings = FlowSettings(
            home=home,
            redis_url=server.url,
            pseudonym_key=SecretStr(SETTING),
            epoch_ms=100,
            bus_partitions=1,
            recovery_partitions=1,
            key_shards=2,
            checkpoint_events=1,
            dead_letter_limit=1.0,
            source_files="",
        )
        plain = PlainSpec(
            "customers",
            ("account_id",),
            ("account_id",),
            tuple((name, "string", f"{n:08x}") for n, name in enumerate(("email", "phone", "segment"))),
            0,
        )
        apply_views(settings, AppliedViews(VIEWS.project, VIEWS.streams, {"customers": (plain,)}))
        made = World(home, settings, redis.Redis.from_url(server.url))
        _flows(made)
        _scores(made)
        rewrite_append_only_file(made.client)
        yield made
        made.client.close()


def test_no_canary_in_any_file_of_the_home(world: World) -> None:
    names = {path.relative_to(world.home).parts[0] for path in world.home.rglob("*") if path.is_file()}
    assert {"log", "dead_letters", "recovery", "checkpoints", "scores", "models", "logs", "redis"} <= names
    assert Scanner([*CANARIES, *SECRETS]).home(world.home) == []


def test_no_canary_in_any_key_or_value_of_redis(world: World) -> None:
    assert sum(1 for _ in world.client.scan_iter()) > len(STREAMS)
    assert Scanner([*CANARIES, *SECRETS]).server(world.client) == []


def test_no_canary_in_metrics_or_on_any_page(world: World) -> None:
    scanner = Scanner([*CANARIES, *SECRETS])
    for where, content in world.outside.items():
        assert len(content) > 20, where
        assert scanner.hits(where, content) == []


def test_no_answer_of_the_scorer_repeats_a_canary(world: World) -> None:
    codes = [code for code, _ in world.answers]
    assert codes[:5] == [200] * 5
    assert set(codes[5:]) == {422}
    assert json.loads(world.answers[0][1])["degraded"] is True
    assert [json.loads(body)["degraded"] for _, body in world.answers[1:4]] == [False] * 3
    scanner = Scanner([*CANARIES, *SECRETS])
    assert [hit for _, body in world.answers for hit in scanner.hits("answer", body)] == []


def test_every_stream_kept_what_it_should_under_the_same_pseudonyms(world: World) -> None:
    names = Pseudonyms("kc", KEY)
    payer, payee, shop = (names.of(text, "party") for text in (PAYER, PAYEE, SHOP))
    found = {
        stream: ds.dataset(kind.log_folder(world.settings), schema=kind.log_schema).to_table()
        for stream, kind in STREAMS.items()
    }
    assert set(found["payments"]["account_id"].to_pylist()) == {payer}
    assert set(found["payments"]["merchant_id"].to_pylist()) == {shop, payee}
    assert set(found["labels"]["account_id"].to_pylist()) == {payer}
    assert set(found["customers"]["account_id"].to_pylist()) == {payer}
    assert set(found["merchants"]["merchant_id"].to_pylist()) == {shop}
    assert all(rows.num_rows >= 4 for rows in found.values())
    customers = found["customers"]
    written = next(STREAMS["customers"].log_folder(world.settings).glob("*.parquet"))
    assert pq.read_schema(written).names == STREAMS["customers"].log_schema.names
    assert set(customers["email"].to_pylist()) == {names.of(EMAIL, "email")}
    assert set(customers["phone"].to_pylist()) == {names.of(PHONE, "phone")}
    scored = [json.loads(line) for path in (world.home / "scores").glob("*") for line in path.open()]
    assert {row["account_id"] for row in scored} == {payer, names.of("ACCT-NEW", "party")}
    assert {row["merchant_id"] for row in scored} == {shop, payee}


def test_scorer_reads_what_the_flow_wrote_under_the_pseudonym(world: World) -> None:
    scored = [json.loads(line) for path in (world.home / "scores").glob("*") for line in path.open()]
    payer = Pseudonyms("kc", KEY).of(PAYER, "party")
    counts = {
        row["features"]["merchant_payment_count_1h"]
        for row in scored
        if not row["degraded"] and row["account_id"] == payer
    }
    assert max(counts) >= 1
    strange = next(row for row in scored if row["account_id"] != payer)
    assert strange["features"]["account_amount_sum_1h"] in (0, None)
    assert {
        row["features"]["account_amount_sum_1h"] > 0
        for row in scored
        if row["account_id"] == payer and row["features"]
    } == {True}


def test_dead_letters_are_whole_for_who_has_the_key_and_say_little_to_others(world: World) -> None:
    reasons = set()
    for stream, kind in STREAMS.items():
        letters = pa.concat_tables(read(kind, world.settings))
        opened = sorted(decrypt(letters, kind, Pseudonyms("kc", KEY))["payload"].to_pylist())
        accepted = _rows(kind.log_folder(world.settings))
        sent = traffic(stream)
        assert len(opened) == len(sent) - accepted
        assert set(opened) <= set(sent)
        reasons |= set(letters["reason"].to_pylist())
        said = " ".join(letters["detail"].to_pylist())
        assert "(personal)" in said or not kind.personal
        assert re.search(r"a text of \d+ characters", said)
    assert reasons == {"malformed", "schema", "check", "late", "future", "duplicate"}


def test_bus_is_empty_and_its_counters_still_tell(world: World) -> None:
    for stream, sent in world.sent.items():
        about: Any = world.client.xinfo_stream(f"millstream:{stream}:0")
        assert (about["length"], about["entries-added"]) == (0, sent)


def test_scanner_finds_what_is_planted(world: World, tmp_path: Path) -> None:
    """The control: without it, a scan that looks at nothing would pass."""
    home = tmp_path / "home"
    shutil.copytree(world.home / "log", home / "log")
    scanner = Scanner(CANARIES)
    assert scanner.home(home) == []
    victim = next((home / "log" / "payments").glob("*.parquet"))
    table = pq.read_table(victim)
    at = table.schema.get_field_index("channel")
    planted = pa.array([NAME] + [None] * (table.num_rows - 1), pa.string())
    pq.write_table(table.set_column(at, "channel", planted), victim, compression="zstd")
    assert scanner.home(home)
    for number, content in enumerate(
        (
            NAME.encode(),
            json.dumps({"n": NAME}).encode(),
            EMAIL.encode("utf-16-le"),
            b"x" + EMAIL.encode("utf-16-be"),
            base64.b64encode(b"a" + PAYER.encode() + b"b"),
            base64.b64encode(b"ab" + PAYER.encode()),
            base64.b64encode(PHONE.encode() + b"abc"),
            BORN.encode().hex().encode(),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "f").write_bytes(b"before" + content + b"after")
        assert scanner.home(folder), content
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / f"{PAYER}.txt").touch()
    assert scanner.home(tmp_path / "name")
    try:
        for do in (
            lambda: world.client.set(f"planted:{PAYER}", "x"),
            lambda: world.client.hset("planted", "f", EMAIL),
            lambda: world.client.xadd("planted:s", {"v": json.dumps(NAME)}),
        ):
            do()
            assert scanner.server(world.client)
            world.client.delete(f"planted:{PAYER}", "planted", "planted:s")
    finally:
        world.client.delete(f"planted:{PAYER}", "planted", "planted:s")
