"""The real flow is killed with -9 five times at random moments: while it starts, reads, writes or takes a snapshot.

Meanwhile payments arrive out of order, some late, duplicated or broken. Each start has one worker or two. At the end
each entry of the bus must be in the log or among the dead letters, exactly once and for the right reason; the online
store must equal the fold of the log; and no published file may have changed.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import redis
from pydantic import SecretStr

from flows.local.redis_server import EmbeddedServer
from flows.settings import FlowSettings
from tests.kits.flow_output import (
    dead_letter_rows,
    events_written,
    log_rows,
    published_files,
    states_from_log,
    states_online,
)
from tests.kits.flow_process import running_flow
from tests.kits.payments import START, encoded, payment, publish
from tests.kits.views import apply_views

TRIALS: Final = 200
KILLS: Final = 5
PARTITIONS: Final = 2
_PIECES: Final = 20


class Supply:
    """Payments for the bus, a share for each life of the flow, and the expected outcome."""

    def __init__(self, count: int, draw: random.Random) -> None:
        self.expected: Counter[str] = Counter(logged=count)
        """Expected number of log rows ("logged") and of dead letters per reason."""
        self._sent = self._made(count, draw)

    def __len__(self) -> int:
        return len(self._sent)

    def _made(self, count: int, draw: random.Random) -> list[tuple[int, bytes]]:
        """(partition, payload) in order of arrival; an account is always in the same partition."""
        sent = []
        for n in range(count):
            good = payment(n, START + timedelta(seconds=n * 4 - draw.randrange(300)))
            also: tuple[str, bytes] | None = None
            kind = draw.random()
            if kind < 0.02 and n > 600:
                also = (
                    "late",
                    encoded(payment(n, START + timedelta(seconds=n * 4 - 1500), event_id=f"late{n}")),
                )
            elif kind < 0.04:
                also = "duplicate", encoded(good)
            elif kind < 0.06:
                also = "malformed", b'{"event_id": "cut o'
            elif kind < 0.08:
                also = "schema", encoded(payment(n, amount="much", event_id=f"text{n}"))
            elif kind < 0.10:
                also = "check", encoded(payment(n, amount=-1.0, event_id=f"minus{n}"))
            partition = n % 17 % PARTITIONS
            sent.append((partition, encoded(good)))
            if also is not None:
                sent.append((partition, also[1]))
                self.expected[also[0]] += 1
        return sent

    @contextmanager
    def flowing(self, client: redis.Redis, life: int, lives: int) -> Iterator[None]:
        """Publish the share of one life within about half a second; the end of the block waits for the last one."""
        share = self._sent[len(self) * life // lives : len(self) * (life + 1) // lives]
        step = len(share) // _PIECES + 1

        def produce() -> None:
            for at in range(0, len(share), step):
                for partition in range(PARTITIONS):
                    publish(client, [p for to, p in share[at : at + step] if to == partition], partition)
                time.sleep(0.5 / _PIECES)

        producer = threading.Thread(target=produce)
        producer.start()
        try:
            yield
        finally:
            producer.join()


@contextmanager
def place(seed: int, **options: Any) -> Iterator[tuple[FlowSettings, redis.Redis]]:
    """Yield the settings of an empty home with frequent snapshots, and a client of its own server."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "server") as server:
        defaults: dict[str, Any] = {
            "epoch_ms": 100,
            "checkpoint_seconds": 0.5 + seed % 3,
            "key_shards": 4,
            "recovery_partitions": 4,
            "bus_partitions": PARTITIONS,
            "block_events": 48,
            "bus_retention": "unread" if seed % 2 else "all",
            "pseudonym_key": SecretStr("off"),
        }
        settings = FlowSettings(home=Path(folder) / "home", redis_url=server.url, **defaults | options)
        settings.home.mkdir()
        apply_views(settings)
        with redis.Redis.from_url(server.url) as client:
            yield settings, client


def check(settings: FlowSettings, client: redis.Redis, supply: Supply, before: dict[Path, bytes]) -> None:
    """Check the contract; `before` holds files that were published earlier, with their hashes."""
    rows, letters = log_rows(settings), dead_letter_rows(settings)
    found = Counter(letter["reason"] for letter in letters)
    found["logged"] = rows.num_rows
    assert found == supply.expected
    assert len(set(rows["event_id"].to_pylist())) == rows.num_rows
    places = list(zip(rows["source_partition"].to_pylist(), rows["source_offset"].to_pylist(), strict=True))
    places += [(letter["source_partition"], letter["source_offset"]) for letter in letters]
    assert len(set(places)) == len(places) == len(supply)
    now = published_files(settings)
    assert {path: now.get(path) for path in before} == before, "a published file changed"
    assert states_online(client) == states_from_log(settings, client), (
        "the online store differs from the fold of the log"
    )


def finished(settings: FlowSettings, client: redis.Redis, supply: Supply) -> bool:
    """Whether all events are written and the online store equals the log."""
    return events_written(settings) >= len(supply) and states_online(client) == states_from_log(
        settings, client
    )


def trial(seed: int, count: int = 1_200, kills: int = KILLS) -> str:
    """Kill one flow `kills` times: two of three times after it has published something, else possibly before."""
    draw = random.Random(seed)
    supply = Supply(count, draw)
    with place(seed) as (settings, client):
        files: dict[Path, bytes] = {}
        for life in range(kills):
            with supply.flowing(client, life, kills + 1):
                before = events_written(settings)
                with running_flow(settings, workers=draw.choice((1, 2))) as process:
                    if life % 3:
                        process.wait_for(lambda before=before: before < events_written(settings))  # type: ignore[misc]
                    time.sleep(draw.random() * 0.5)
                files |= published_files(settings)
        with running_flow(settings, workers=draw.choice((1, 2))) as process:
            with supply.flowing(client, kills, kills + 1):
                pass
            process.wait_for(lambda: finished(settings, client, supply))
        check(settings, client, supply, files)
    return f"{len(supply):,} entries, {kills} kills, {len(files)} files published on the way"
