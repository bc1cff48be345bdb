"""Shared by trials on the flow's stores: traffic, a home with a server, and the checks at the end."""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import redis
from pydantic import SecretStr

from feature_repo.stores.applied_views import AppliedViews, PlainSpec
from feature_repo.stores.redis_layout.keys import (
    encode_timestamp,
    encode_value,
    key_prefix,
    key_values,
    time_field,
)
from flows.settings import FlowSettings
from tests.kits.flow_output import dead_letter_rows, log_rows, states_from_log, states_online
from tests.kits.payments import START, encoded, payment
from tests.kits.redis_server import BreakableServer
from tests.kits.views import VIEWS, apply_views

PLAIN = PlainSpec(
    "account_last", ("account_id",), ("account_id",), (("amount", "double", "c0ffee01"),), ttl_us=0
)
APPLIED = AppliedViews(VIEWS.project, VIEWS.streams, {"payments": (PLAIN,)})
ACCOUNTS, MERCHANTS = 400, 37


class Traffic:
    """Publishes payments in time order from a thread; can publish those of the last seconds again."""

    def __init__(self, url: str, settings: FlowSettings, a_second: int, seed: int) -> None:
        self._client = redis.Redis.from_url(url)
        self._partitions = settings.bus_partitions
        self._pause = 1 / a_second
        self._draw = random.Random(seed)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent: list[tuple[float, int, bytes]] = []
        """(time.monotonic() when sent, partition, payload) of each payment."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Send no more events."""
        self._stop.set()
        self._thread.join()

    def send_again(self, since: float) -> None:
        """Publish again all that was sent since then, as a careful producer does when its server lost writes."""
        with self._lock:
            for _, partition, event in [s for s in self.sent if s[0] >= since]:
                self._publish(partition, event)

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(self._pause):
            account = self._draw.randrange(ACCOUNTS)
            at = START + timedelta(milliseconds=100 * number)
            event = encoded(
                payment(
                    number,
                    at,
                    account_id=f"a{account}",
                    merchant_id=f"m{self._draw.randrange(MERCHANTS)}",
                    amount=self._draw.randrange(1, 90_000) / 100,
                )
            )
            with self._lock:
                began = time.monotonic()
                self._publish(account % self._partitions, event)
                self.sent.append((began, account % self._partitions, event))
            number += 1

    def _publish(self, partition: int, event: bytes) -> None:
        give_up = time.monotonic() + 30
        while True:
            try:
                self._client.xadd(f"millstream:payments:{partition}", {"v": event})
            except redis.RedisError:
                assert time.monotonic() < give_up, "the server does not come back"
                time.sleep(0.05)
            else:
                return


@contextlib.contextmanager
def stage(**options: Any) -> Iterator[tuple[BreakableServer, FlowSettings]]:
    """Yield a server and the settings of a home with views on it."""
    with tempfile.TemporaryDirectory() as folder, BreakableServer(Path(folder) / "server") as server:
        yield server, home_settings(Path(folder) / "home", server.url, **options)


def home_settings(home: Path, url: str, **options: Any) -> FlowSettings:
    """Create a home with views; return its settings."""
    home.mkdir(parents=True, exist_ok=True)
    settings = FlowSettings(
        home=home,
        redis_url=url,
        pseudonym_key=SecretStr("off"),
        **{"epoch_ms": 100, "checkpoint_seconds": 0.5, "bus_partitions": 2, **options},
    )
    apply_views(settings, APPLIED)
    return settings


def differing(settings: FlowSettings, client: redis.Redis) -> int:
    """Count the keys whose online states or plain rows differ from the log, and online keys that are not in the log."""
    expected, stored = states_from_log(settings, client), states_online(client)
    wrong = {key for key in expected.keys() | stored.keys() if expected.get(key) != stored.get(key)}
    newest: dict[str, dict[str, Any]] = {}
    for row in log_rows(settings, ["account_id", "event_timestamp", "amount"]).to_pylist():
        held = newest.get(row["account_id"])
        if held is None or row["event_timestamp"] > held["event_timestamp"]:
            newest[row["account_id"]] = row
    for account, row in newest.items():
        key = key_prefix(PLAIN.join_keys) + key_values([account]) + APPLIED.project.encode()
        us = round(row["event_timestamp"].timestamp() * 1_000_000)
        fields = (time_field(PLAIN.name), bytes.fromhex(PLAIN.features[0][2]))
        held_time, value = client.execute_command("HMGET", key, *fields)
        if (held_time, value) != (encode_timestamp(us), encode_value(row["amount"], "double")):
            wrong.add(key)
    return len(wrong)


def require_exactly_once(settings: FlowSettings, sent: set[str]) -> None:
    """Check that each event sent is in the log once, and that all dead letters are duplicates."""
    ids = log_rows(settings, ["event_id"])["event_id"].to_pylist()
    assert len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} events are in the log twice"
    assert set(ids) == sent, (
        f"{len(sent - set(ids))} events are not in the log, {len(set(ids) - sent)} were never sent"
    )
    others = {letter["reason"] for letter in dead_letter_rows(settings)} - {"duplicate"}
    assert not others, f"dead letters for {others}"


def without_views(settings: FlowSettings) -> FlowSettings:
    """Remove all views from the home, for a flow that only writes the log."""
    apply_views(settings, replace(APPLIED, streams={}, plain={}))
    return settings
