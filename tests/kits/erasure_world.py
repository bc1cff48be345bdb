"""A small world through all five real flows, in which one account takes part in every stream and is to be erased."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from pydantic import SecretStr

from feature_repo.privacy import PARTY, Pseudonyms
from feature_repo.stores.applied_views import AppliedViews, PlainSpec
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.stores.redis_layout.keys import state_field
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.spec import Aggregate, ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.local.redis_server import EmbeddedServer
from flows.settings import FlowSettings
from flows.streams import STREAMS
from tests.kits.flow_process import run_to_end, run_until, running_flow
from tests.kits.payments import encoded, payment, publish
from tests.kits.views import HOUR_US, VIEWS, apply_views

KEY = bytes((5 * n + 1) % 256 for n in range(32))
SETTING = f"ke:{base64.b64encode(KEY).decode()}"
NAMES = Pseudonyms("ke", KEY)
GONE = "ACCT-000123"
ALIKE = GONE + "4"
"""Another account whose id contains that of the erased one; it must stay."""
PSEUDONYM = NAMES.of(GONE, PARTY)
NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=3)
NOW_MS = int(NOW.timestamp() * 1000)
DAY_US = 24 * HOUR_US


def window(name: str, keys: tuple[str, ...], *aggregates: tuple[str, str, str], **spec: Any) -> ViewSpec:
    """A view with windows of one day."""
    made = tuple(Aggregate(n, f, c, DAY_US) for n, f, c in aggregates)
    return ViewSpec(name, keys, 0, 64, 600_000_000, made, **spec)


def plain(name: str, keys: tuple[str, ...], *columns: str) -> PlainSpec:
    features = tuple((column, "string", f"{n:04x}{len(name):04x}") for n, column in enumerate(columns))
    return PlainSpec(name, keys, keys, features, 0)


WORLD = AppliedViews(
    VIEWS.project,
    {
        "labels": (
            window(
                "merchant_labels",
                ("merchant_id",),
                ("frauds_1d", "count", "fraud_reported"),
                id_column="label_id",
            ),
        ),
        "payments": (
            *VIEWS.streams["payments"],
            window("account_payee", ("account_id", "merchant_id"), ("pair_count_1d", "count", "event_id")),
        ),
    },
    {
        "charges": (plain("charge", ("payment_id",), "card_network", "issuer_country"),),
        "customers": (plain("account_profile", ("account_id",), "segment", "email"),),
        "payments": (plain("latest_of_merchant", ("merchant_id",), "currency", "channel"),),
    },
)
"""Single and pair keys, several streams, and plain views; the newest row of one may be of the erased account."""


def iso(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def pay(number: int, **changes: Any) -> dict[str, Any]:
    """A payment; every seventh is by the account to be erased, every eleventh goes to it."""
    made = payment(number, NOW + timedelta(milliseconds=number))
    if number % 7 == 0:
        made["account_id"] = GONE
    elif number % 11 == 0:
        made |= {"merchant_id": GONE, "type": "TRANSFER"}
    return made | {"device_id": f"d{number % 13}", "latitude": 47.0, "longitude": 8.0} | changes


def charge(number: int, payment_id: str, **changes: Any) -> dict[str, Any]:
    at = iso(NOW + timedelta(milliseconds=number))
    return {
        "event_id": f"h{number}",
        "event_timestamp": at,
        "payment_id": payment_id,
        "card_network": "visa",
        "issuer_country": "CH",
    } | changes


def label(number: int, payment_id: str, **changes: Any) -> dict[str, Any]:
    """A label; it has no keys, its account follows from a join with the payment."""
    at = iso(NOW + timedelta(milliseconds=number))
    return {
        "label_id": f"{payment_id}:{number}",
        "event_timestamp": at,
        "payment_id": payment_id,
        "is_fraud": number % 2 == 0,
        "labeler": "analyst",
    } | changes


def customer(number: int, account: str, **changes: Any) -> dict[str, Any]:
    at = iso(NOW - timedelta(minutes=1) + timedelta(milliseconds=number))
    return {
        "event_id": f"c{number}",
        "event_timestamp": at,
        "account_id": account,
        "home_latitude": 47.1,
        "home_longitude": 8.1,
        "email": f"{account}@mail.example",
        "name": f"Name of {account}",
        "segment": "standard",
    } | changes


def merchant(number: int, name: str) -> dict[str, Any]:
    at = iso(NOW - timedelta(minutes=1) + timedelta(milliseconds=number))
    return {"event_id": f"m{number}", "event_timestamp": at, "merchant_id": name, "category": "grocery"}


PAYMENTS = [pay(n) for n in range(220)]
IN_FILE = [
    pay(n, event_timestamp=iso(NOW - timedelta(minutes=2) + timedelta(milliseconds=n)))
    for n in range(300, 380)
]
UNREAD = [pay(n) for n in range(220, 240)]
OF_GONE = [p for p in [*PAYMENTS, *IN_FILE, *UNREAD] if GONE in (p["account_id"], p["merchant_id"])]
CHARGES = [charge(n, p["event_id"]) for n, p in enumerate(PAYMENTS[:120])]
LABELS = [label(n, p["event_id"]) for n, p in enumerate(PAYMENTS[20:140])]
BAD = {
    "payments": [
        encoded(pay(7))[:-9],  # cut off
        encoded(pay(8))[:-9],
        encoded(pay(14)),  # a duplicate
        encoded(pay(15)),
        encoded(pay(21, event_id="late-of-gone", event_timestamp=iso(NOW - timedelta(hours=2)))),
        encoded(pay(1, currency=GONE + "/", amount=-1.0)),
        encoded(pay(1, event_id="like", account_id=ALIKE, amount=-1.0)),  # another account, alike
    ],
    "labels": [encoded(label(900, "late-of-gone", event_timestamp="yesterday"))],
    "customers": [encoded(customer(901, GONE))[:-4], encoded(customer(902, "a1"))[:-4]],
    "merchants": [],
    "charges": [encoded(charge(903, OF_GONE[0]["event_id"], card_network="???"))],
}
SENT: dict[str, list[bytes]] = {
    "customers": [
        *(encoded(customer(n, a)) for n, a in enumerate([GONE, "a1", "a2", GONE])),
        *BAD["customers"],
    ],
    "merchants": [encoded(merchant(n, m)) for n, m in enumerate(["m0", "m1", GONE])],
    "charges": [*map(encoded, CHARGES), *BAD["charges"]],
    "payments": [*map(encoded, PAYMENTS), *BAD["payments"]],
    "labels": [*map(encoded, LABELS), encoded(label(910, "late-of-gone")), *BAD["labels"]],
}
ORDER = ("customers", "merchants", "payments", "charges", "labels")


@dataclass
class World:
    """A home, its settings, and a client of its server."""

    home: Path
    client: redis.Redis
    settings: FlowSettings

    def keys_and_values(self) -> dict[bytes, Any]:
        """All hashes of the server except internal ones."""
        return {
            key: self.client.hgetall(key)
            for key in self.client.scan_iter(count=1000)
            if not key.startswith(b"millstream:")
        }


def settings_of(home: Path, url: str) -> FlowSettings:
    return FlowSettings(
        home=home,
        redis_url=url,
        pseudonym_key=SecretStr(SETTING),
        epoch_ms=100,
        bus_partitions=1,
        recovery_partitions=1,
        key_shards=2,
        checkpoint_events=1,
        dead_letter_limit=1.0,
        source_files="",
    )


@contextmanager
def opened(home: Path) -> Iterator[World]:
    """Start the server of a home."""
    with EmbeddedServer(home) as server:
        client = redis.Redis.from_url(server.url)
        try:
            yield World(home, client, settings_of(home, server.url))
        finally:
            client.close()


@contextmanager
def copied(home: Path, to: Path) -> Iterator[World]:
    """Copy a home whose server is stopped, and start a server on the copy."""
    shutil.copytree(home, to)
    with opened(to) as world:
        yield world


def build(home: Path, file: Path) -> None:
    """Build the world: a run over a file, all five flows on the bus, scores, and payments that are not read yet."""
    with opened(home) as world:
        apply_views(world.settings, WORLD)
        file.write_bytes(b"".join(encoded(p) + b"\n" for p in IN_FILE))
        run_to_end(world.settings.model_copy(update={"source_files": str(file)}))
        for stream in ORDER:
            deliver(world, stream, SENT[stream])
            count = len(SENT[stream]) + (len(IN_FILE) if stream == "payments" else 0)
            run_until(world.settings, count, stream, linger=0.5)
        deliver(world, "payments", [encoded(p) for p in UNREAD], first_ms=NOW_MS + 100_000)
        (home / "skew.json").write_text(json.dumps({"examples": [{"event_id": OF_GONE[0]["event_id"]}]}))
        (home / "data_docs").mkdir()
        (home / "data_docs" / "index.html").write_text("<p>240 payments</p>")
        world.settings.scores.mkdir()
        lines = [
            {"score_id": str(n), **{c: NAMES.of(p[c], PARTY) for c in ("account_id", "merchant_id")}}
            | {"event_id": p["event_id"]}
            for n, p in enumerate(PAYMENTS[:40])
        ]
        log = world.settings.scores / "20261122T000000Z-1.jsonl"
        log.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def deliver(world: World, stream: str, payloads: Sequence[bytes], first_ms: int = NOW_MS + 1000) -> None:
    publish(world.client, payloads, first_ms=first_ms, stream=stream)


def refold(world: World) -> None:
    """Start one flow after the other, each until all that it folds again is in the online store."""
    for stream in ORDER:
        with running_flow(world.settings, stream) as flow:
            expected = folded(world, stream) if stream in WORLD.streams else {}
            flow.wait_for(partial(_is_online, world, expected), seconds=120)
            flow.exit_code(0.5)


def _is_online(world: World, expected: dict[tuple[bytes, bytes], bytes]) -> bool:
    return expected.items() <= online(world).items()


def log_rows(world: World, stream: str) -> list[dict[str, Any]]:
    """The rows of the log of a stream, file after file."""
    files = sorted(STREAMS[stream].log_folder(world.settings).glob("*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def letters(world: World, stream: str) -> list[dict[str, Any]]:
    files = sorted((world.settings.dead_letters / stream).glob("*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def folded(world: World, *streams: str) -> dict[tuple[bytes, bytes], bytes]:
    """(key, state field) -> the state of all published events folded once; by default of all streams."""
    expected: dict[tuple[bytes, bytes], bytes] = {}
    for stream in streams or WORLD.streams:
        files = sorted(STREAMS[stream].log_folder(world.settings).glob("*.parquet"))
        rows = pa.concat_tables([pq.read_table(path) for path in files]).combine_chunks()
        for entity, specs in WORLD.entities(stream).items():
            some = rows.filter(pa.array(BlockColumns(rows).has_keys(entity)))
            block = BlockColumns(some.combine_chunks())
            index, slots = KeyIndex(), None
            slots = index.slots(block.keys(entity))
            for spec in specs:
                state = ViewState(spec)
                state.fold(slots, block.events(spec))
                key = EntityProjection(None, WORLD.project, [spec]).key
                blob, at = state.pack(np.arange(len(index)))
                for slot in range(len(index)):
                    stands = bytes(blob[at[slot] : at[slot + 1]])
                    expected[key(index.name(slot)), state_field(spec)] = stands
    return expected


def online(world: World) -> dict[tuple[bytes, bytes], bytes]:
    """(key, state field) -> what the online store holds."""
    return {
        (key, field): value
        for key, fields in world.keys_and_values().items()
        for field, value in fields.items()
        if field.startswith(b"_state:")
    }


def hidden_forms() -> dict[str, set[bytes]]:
    """The bytes by which states and checkpoints hold the account and its payments: hashes, and ids as two words."""
    names = pa.table({"account_id": [PSEUDONYM], "merchant_id": [PSEUDONYM]})
    block = BlockColumns(names)
    ids = BlockColumns(
        pa.table(
            {
                "event_id": [p["event_id"] for p in OF_GONE],
                "event_timestamp": pa.array([NOW] * len(OF_GONE), pa.timestamp("us", "UTC")),
                "account_id": [PSEUDONYM] * len(OF_GONE),
            }
        )
    ).events(window("any", ("account_id",), ("n", "count", "event_id")))
    hashed = block.hashed("merchant_id")
    return {
        "hash of the key": {block.keys(("account_id",)).hashes.tobytes()},
        "hash among distinct values": {hashed.tobytes()},
        "id of a payment as words": {row[1:3].tobytes() for row in ids.ints},
    }
