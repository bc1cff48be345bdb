"""Three times as many payments as the scorer can answer, for ten minutes: it answers what it can and rejects the rest
at once.

Each request is answered with 200, or with 429 or 503 and Retry-After; none hangs, and memory stays flat. The seed
decides between `python -m serving` and `uvicorn serving.app:app`. The load comes from a process of its own
(`bench.load`) over 2,000 connections on the same machine. Times count from when a request was due; the result line
states the rate that was really sent.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import orjson

from bench import load
from tests.kits.process_memory import resident_mb
from tests.kits.redis_server import port_of
from tests.kits.score_load import score_client, seconds_until_recovered
from tests.kits.scorer_process import pid_of_scorer, running_scorer
from tests.kits.served_model import own_home, world

TRIALS: Final = 2
ALONE: Final = True
SECONDS: Final = 600.0
TIMES: Final = 3.0
CONNECTIONS: Final = 2_000
MOST_GROWTH_MB: Final = 48.0
FEW: Final = 0.2
"""The most answers with 200 that may come from the fallback, as a share."""


def trial(seed: int, seconds: float = SECONDS) -> str:
    """Measure what the scorer can take, then send three times as much."""
    chance = random.Random(seed)
    payments = [world().payment(chance.randrange(-2000, 0)) for _ in range(200)]
    short = seed % 2 == 0
    with tempfile.TemporaryDirectory(prefix="millstream-overload-") as folder:
        home = own_home(Path(folder))
        requests = home / "requests.json"
        requests.write_bytes(orjson.dumps(payments))
        with running_scorer(home, world().url, short=short, MILLSTREAM_SCORE_LOG_FLUSH_MS="50") as address:
            port = port_of(address)
            _until_well(address, payments[0])
            alone = load.started(port, requests, seconds=min(3.0, seconds), rate=0.0, connections=32)
            takes = load.seen(alone)["rate"]
            memory, process = [], pid_of_scorer(home)
            with load.started(
                port, requests, seconds=seconds, rate=TIMES * takes, connections=CONNECTIONS
            ) as asking:
                while asking.poll() is None:
                    memory.append(resident_mb(process))
                    time.sleep(0.5)
                seen = load.seen(asking)
            _until_well(address, payments[0])
    warm = memory[len(memory) // 5 :]  # buffers of the connections that are opened at first
    said = (
        f"{'python -m serving' if short else 'uvicorn serving.app:app'}: takes {takes:,.0f}/s alone, asked {seen['sent'] / seconds:,.0f}/s for "
        f"{seconds:.0f} s: {seen['answered']:,} answers with 200 ({seen['degraded']:,} degraded; p50 {seen['p50_ms']:.0f} p99 "
        f"{seen['p99_ms']:.0f} max {seen['max_ms']:.0f} ms), {seen['refused']:,} rejected {seen['statuses']} (p50 "
        f"{seen['refused_p50_ms']:.0f} p99 {seen['refused_p99_ms']:.0f} max {seen['refused_max_ms']:.0f} ms), {seen['lost']} "
        f"connections lost; memory {warm[0]:.0f} to {warm[-1]:.0f} MiB, at most {max(warm):.0f}"
    )
    assert set(seen["statuses"]) <= {"200", "429", "503"}, said
    assert seen["answered"], said
    assert not seen["no_retry_after"], said
    assert not seen["unanswered"], said
    assert not seen["lost"], said
    assert max(warm) - warm[0] < MOST_GROWTH_MB, said
    if seconds >= SECONDS:  # other work beside a short trial would decide these
        assert seen["refused"] >= seen["sent"] / 2, f"this was no overload: {said}"
        assert seen["degraded"] <= FEW * seen["answered"], said
    return said


def _until_well(address: str, payment: dict[str, Any]) -> None:
    async def ask() -> None:
        async with score_client(address) as client:
            await seconds_until_recovered(client, payment)

    asyncio.run(ask())
