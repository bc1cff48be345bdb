"""The online store stops, freezes, is slow, resets connections or is out of memory; every payment is answered in time.

A scorer process reads a real Valkey server through a proxy. Payments come at twice the normal load before, during and
after the fault. All are answered with 200. An answer decided without features is marked `degraded` with a reason. A
store that is slow but in time, or refuses writes, changes nothing. Within 2 s of the store's recovery payments are
scored with features again.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from flows.local.redis_server import EmbeddedServer
from tests.kits.redis_server import out_of_memory, port_of, stopped, suspended
from tests.kits.score_load import AnswerCounts, ScoreClient, score_client, seconds_until_recovered, send_load
from tests.kits.scorer_process import running_scorer
from tests.kits.served_model import own_home, world
from tests.kits.tcp_proxy import Proxy, changed

REQUESTS: Final = 1_000
"""During each fault."""
NORMAL: Final = 100.0
"""Payments a second; trials send twice as many."""
DEADLINE: Final = 0.15
NOISE: Final = 0.1
"""Client, proxy and scorer share the machine with each other and with other work; the result line has the measured
times.
"""
HANGS: Final = 5.0
"""No answer may take this long, even on a busy machine."""
BACK_WITHIN, BUSY = 2.0, 1.0
FEW: Final = 0.2
"""Share of payments that a busy machine may make too late for features."""

SECOND: Final = "20261123T000000Z-00000002"
CORRUPT: Final = "20261124T000000Z-0000000c"
OTHER_SCHEMA: Final = "20261124T000000Z-0000000d"

Fault = Callable[[EmbeddedServer, Proxy], AbstractContextManager[Any]]

FAULTS: Final[dict[str, Fault]] = {
    "stopped": lambda server, _: stopped(server),
    "suspended (SIGSTOP)": lambda server, _: suspended(server.url),
    "network frozen": lambda _, proxy: changed(proxy, frozen=True),
    "slow by 50 ms": lambda _, proxy: changed(proxy, delay=0.05),
    "slow by 200 ms": lambda _, proxy: changed(proxy, delay=0.2),
    "slow by 2,000 ms": lambda _, proxy: changed(proxy, delay=2.0),
    "resetting connections": lambda _, proxy: changed(proxy, resetting=True),
    "out of memory": lambda server, _: out_of_memory(server),
}
HARMLESS: Final = {"slow by 50 ms", "out of memory"}
"""Faults under which reads still arrive in time."""
GONE: Final = {"stopped", "suspended (SIGSTOP)", "network frozen", "slow by 200 ms", "slow by 2,000 ms"}
"""Faults under which no read arrives in time."""
CODES: Final = {"store_timeout", "store_unreachable", "store_slow", "deadline"}
TRIALS: Final = len(FAULTS)
ALONE: Final = True


class Rig:
    """A server of its own, a proxy before it, and a scorer that knows only the proxy; used by all trials of a
    process.
    """

    def __init__(self) -> None:
        held = contextlib.ExitStack()
        atexit.register(held.close)
        home = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="millstream-faults-")))
        self.server = held.enter_context(EmbeddedServer(home / "server"))
        self.proxy = held.enter_context(Proxy(port_of(self.server.url)))
        self.home = own_home(home)
        self.models = self.home / "models" / "fraud_detection"
        world().write_model(self.models, OTHER_SCHEMA, rounds=7, schema_hash="0" * 64)
        (world().write_model(self.models, CORRUPT, rounds=7) / "model.onnx").write_bytes(b"not trees")
        world().write_model(self.models, SECOND, rounds=7)
        self.address = held.enter_context(
            running_scorer(self.home, self.proxy.url, short=True, MILLSTREAM_MODEL_POLL_SECONDS="0.02")
        )


rig = functools.cache(Rig)


def trial(seed: int, requests: int = REQUESTS) -> str:
    """One fault; the seed decides which one, and the payments."""
    name = list(FAULTS)[seed % len(FAULTS)]
    chance = random.Random(seed)
    payments = [world().payment(chance.randrange(-2000, 0)) for _ in range(200)]
    during, after, back = asyncio.run(_story(FAULTS[name], payments, requests))
    assert set(during.statuses) == {200}, f"{name}: {during}"
    assert set(after.statuses) == {200}, f"{name}, afterwards: {after}"
    assert set(during.codes) <= CODES | {""}, f"{name}: {during}"
    assert during.quantile(0.5) < 1000 * (DEADLINE + NOISE), f"{name}: {during}"
    assert during.quantile(1) < 1000 * HANGS, f"{name}: {during}"
    if name in HARMLESS:
        assert during.degraded <= FEW * requests, f"{name}: {during}"
    if name in GONE:
        assert during.degraded == requests, f"{name}: {during}"
    assert back < BACK_WITHIN + BUSY, f"{name}: recovered after {back:.2f} s"
    assert after.degraded <= FEW * after.n, f"{name}, afterwards: {after}"
    assert rig().proxy.open_now <= 8, "too many connections are open"
    return f"{name}: {during}, {during.within(DEADLINE):.1%} within the deadline; recovered after {back * 1000:.0f} ms"


async def _story(
    fault: Fault, payments: list[dict[str, Any]], requests: int
) -> tuple[AnswerCounts, AnswerCounts, float]:
    """Answers during the fault and after it, and how long after its end the first payment was scored."""
    parts = rig()
    async with score_client(parts.address) as client:
        await seconds_until_recovered(client, payments[0])
        await _load(client, payments, requests // 5)
        with fault(parts.server, parts.proxy):
            during = await _load(client, payments, requests)
        ended = time.perf_counter()
        await seconds_until_recovered(client, payments[0])
        back = time.perf_counter() - ended
        after = await _load(client, payments, requests // 5)
    return during, after, back


async def _load(client: ScoreClient, payments: list[dict[str, Any]], requests: int) -> AnswerCounts:
    return await send_load(client, payments, rate=2 * NORMAL, requests=requests)
