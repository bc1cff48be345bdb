"""Three times as many payments as the scorer can answer, for ten minutes: it answers what it can in time, and turns the rest away at once.

Every request is answered: 200, or 429 or 503 with Retry-After; none hangs, and memory stays flat. By the seed it is `python -m serving` or `uvicorn serving.app:app`.
The client is a process in Python on the same two cores and may fall short of the rate; so what was asked is counted, and must be half as much again as the scorer takes
without company. Times are from when a request was sent.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import uvloop

from tests import faultkit
from tests.faultkit import Tally
from tests.servingkit import own_home, uvicorn, world

TRIALS: Final = 2
ALONE: Final = True
SECONDS: Final = 600.0
TIMES: Final = 3.0
LEAST: Final = 1.5
"""Times what it takes, that were really asked."""
MOST_GROWTH_MB: Final = 48.0


def trial(seed: int, seconds: float = SECONDS) -> str:
    """Measures what the scorer can take, and then asks for three times that."""
    chance = random.Random(seed)
    payments = [world().payment(chance.randrange(-2000, 0)) for _ in range(200)]
    short = seed % 2 == 0
    with tempfile.TemporaryDirectory(prefix="millstream-overload-") as folder:
        home = own_home(Path(folder))
        with uvicorn(home, world().url, short=short, MILLSTREAM_SCORE_LOG_FLUSH_MS="50") as address:
            takes, asked, tally, memory = uvloop.run(_story(address, home, payments, seconds))
    name = "python -m serving" if short else "uvicorn serving.app:app"
    said = (
        f"{name}: takes {takes:.0f}/s, asked {asked:.0f}/s for {tally.n / asked:.0f} s: {tally}; "
        f"memory {memory[0]:.0f} to {memory[-1]:.0f} MiB, at most {max(memory):.0f}"
    )
    assert seconds < SECONDS or asked >= LEAST * takes, f"this was no overload: {said}"
    assert set(tally.statuses) <= {200, 429, 503}, said
    assert tally.statuses[200], said
    assert not tally.unasked, said
    assert max(memory) - memory[0] < MOST_GROWTH_MB, said
    return said


async def _story(
    address: str, home: Path, payments: list[dict[str, Any]], seconds: float
) -> tuple[float, float, Tally, list[float]]:
    async with faultkit.clients(address, from_sent=True) as client:
        await faultkit.seconds_until_well(client, payments[0])
        takes = await faultkit.most_a_second(client, payments[0], at_once=32, seconds=min(3.0, seconds))
        await asyncio.sleep(0.3)
        process = faultkit.scorer_pid(home)
        began = time.perf_counter()
        asking = asyncio.create_task(
            faultkit.load(client, payments, rate=TIMES * takes, requests=int(TIMES * takes * seconds))
        )
        memory = []
        while not asking.done():
            memory.append(faultkit.resident_mb(process))
            await asyncio.sleep(0.5)
        tally = await asking
        asked = tally.n / (time.perf_counter() - began)
        await faultkit.seconds_until_well(client, payments[0])
    warm = memory[len(memory) // 5 :]  # buffers of the connections that are opened at first
    return takes, asked, tally, warm
