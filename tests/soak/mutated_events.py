"""A real flow on a real bus gets 1 % mutated events: 1,000 per trial, 100,000 in a full run.

Each event is in the log or among the dead letters exactly once. A dead letter holds the exact bytes that came. All
good events are logged as sent. The flow never stops, and the online store equals the fold of the log. With odd seeds
there is a key, and dead letters are encrypted.
"""

from __future__ import annotations

import base64
import random
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import redis
from pydantic import SecretStr

from feature_repo import privacy
from feature_repo.streams.payments import PAYMENTS
from flows.local.redis_server import EmbeddedServer
from flows.log import dead_letters
from flows.settings import FlowSettings
from flows.sources.redis_entries import payload_of
from tests.kits.flow_output import log_rows, states_from_log, states_online
from tests.kits.flow_process import running_flow
from tests.kits.mutated_payments import Fields, mutated
from tests.kits.payments import encoded, payment
from tests.kits.process_memory import peak_mb
from tests.kits.views import apply_views

TRIALS: Final = 100
KEY: Final = "k1:" + base64.b64encode(bytes(range(32))).decode()
MOST_MB: Final = 1_500
"""The most memory of the flow with events of 10 MB; without such events it has 300."""
_PIPELINE: Final = 1_000
_PIPELINE_BYTES: Final = 20_000_000
Place = tuple[str, int]


def trial(seed: int, mutants: int = 1_000, good: int = 99_000) -> str:
    """One flow run."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "server") as server:
        settings = FlowSettings(
            home=Path(folder) / "home",
            redis_url=server.url,
            epoch_ms=250,
            pseudonym_key=SecretStr(KEY if seed % 2 else "off"),
            bus_retention="all",
        )
        settings.home.mkdir()
        apply_views(settings)
        client = redis.Redis.from_url(server.url)
        with running_flow(settings) as process:
            sent, sound = _produce(client, settings, draw, mutants, good)
            process.wait_for_events(len(sent), 900)
            time.sleep(1.0)
            assert process.is_alive()
            peak = peak_mb(process.pid)
            assert peak < MOST_MB, f"{peak} MB"
        return f"{_verdict(settings, client, sent, sound)}, peak {peak} MB"


def _produce(
    client: redis.Redis, settings: FlowSettings, draw: random.Random, mutants: int, good: int
) -> tuple[dict[Place, Fields], dict[Place, dict[str, Any]]]:
    """(entries by their place, the good events among them)."""
    bad = set(draw.sample(range(mutants + good), mutants))
    first_ms = int(time.time() * 1000) - mutants - good
    sent: dict[Place, Fields] = {}
    sound: dict[Place, dict[str, Any]] = {}
    pipe, waiting = client.pipeline(transaction=False), 0
    for n in range(mutants + good):
        accepted = first_ms + n
        at = datetime.fromtimestamp(accepted // 1000 - draw.randrange(200), UTC)
        identity = f"m{draw.getrandbits(96):024x}" if n in bad else f"g{n}"
        event = payment(n, at, event_id=identity, account_id=f"a{n % 701}", merchant_id=f"m{n % 101}")
        partition = n % settings.bus_partitions
        place = (f"bus:payments:{partition}", accepted << 20)
        if n in bad:
            sent[place] = mutated(event, draw)
        else:
            sent[place] = [(b"v", encoded(event))]
            sound[place] = event
        flat = [part for pair in sent[place] for part in pair]
        pipe.execute_command("XADD", f"millstream:payments:{partition}", f"{accepted}-0", *flat)
        waiting += sum(map(len, flat))
        if len(pipe) >= _PIPELINE or waiting > _PIPELINE_BYTES:
            pipe.execute()
            waiting = 0
    pipe.execute()
    return sent, sound


def _verdict(
    settings: FlowSettings, client: redis.Redis, sent: dict[Place, Fields], sound: dict[Place, dict[str, Any]]
) -> str:
    pseudonyms = privacy.of_settings(settings)
    rows = log_rows(settings)
    for batch in rows.to_batches():
        batch.validate(full=True)
    kept = _by_place(rows)
    assert len(kept) == rows.num_rows, "an event was logged twice"
    letters = {}
    for stored in dead_letters.read(PAYMENTS, settings):
        opened = dead_letters.decrypt(stored, PAYMENTS, pseudonyms) if pseudonyms.keyed else stored
        found = _by_place(opened)
        assert len(found) == opened.num_rows
        assert found.keys().isdisjoint(letters), "a dead letter was written twice"
        letters |= found
    assert kept.keys().isdisjoint(letters), "an event was logged and dead-lettered"
    assert kept.keys() | letters.keys() == sent.keys(), "an event was lost"
    for place, event in sound.items():
        assert place in kept, f"a good event was rejected: {letters[place]}"
        row = kept[place]
        assert (row["event_id"], row["amount"]) == (event["event_id"], event["amount"])
        assert row["event_timestamp"] == datetime.fromisoformat(event["event_timestamp"])
    for place, letter in letters.items():
        flat = [part for pair in sent[place] for part in pair]
        assert letter["payload"] == payload_of(flat), f"the payload differs from what was sent: {place}"
        assert letter["detail"], letter["reason"]
    assert states_online(client) == states_from_log(settings, client)
    reasons = Counter(letter["reason"] for letter in letters.values())
    return f"{len(sent):,} in = {len(kept):,} logged + {len(letters):,} dead {dict(reasons)}"


def _by_place(table: pa.Table) -> dict[Place, dict[str, Any]]:
    return {(row["source_partition"], row["source_offset"]): row for row in table.to_pylist()}
