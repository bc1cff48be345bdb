"""The champion changes 20 times under load, sometimes to an unusable one; no payment is dropped.

Two versions take turns. Now and then the alias names a version that is missing, corrupt or of another schema. Each
payment is answered with 200 by one of the two good versions, and the scorer reports that it does not use the bad one.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from feature_repo.champion_alias import CHAMPION, write_alias
from tests.kits.score_load import AnswerCounts, score_client, seconds_until_recovered, send_load
from tests.kits.served_model import VERSION, world
from tests.soak.scorer_faults import CORRUPT, FEW, OTHER_SCHEMA, SECOND, rig
from training import artefact

TRIALS: Final = 20
ALONE: Final = True
FLIPS: Final = 20
RATE: Final = 200.0
PAUSE: Final = 0.15
MISSING: Final = "20261124T000000Z-0000000b"


def trial(seed: int) -> str:
    """Run 20 flips; the seed decides their order and kinds."""
    chance = random.Random(seed)
    payments = [world().payment(chance.randrange(-2000, 0)) for _ in range(200)]
    tally = asyncio.run(_story(payments, chance))
    assert set(tally.statuses) == {200}, tally
    assert set(tally.versions) == {VERSION, SECOND}, tally.versions
    assert tally.degraded <= FEW * tally.n, tally
    return f"{FLIPS} flips: {tally}; by version {dict(tally.versions)}"


async def _story(payments: list[dict[str, Any]], chance: random.Random) -> AnswerCounts:
    async with score_client(rig().address) as client:
        await seconds_until_recovered(client, payments[0])
        requests = int(FLIPS * (PAUSE + 0.1) * RATE)
        asking = asyncio.create_task(send_load(client, payments, rate=RATE, requests=requests))
        try:
            for flip in range(FLIPS):
                await asyncio.to_thread(_flip, flip, chance)
                await asyncio.sleep(chance.uniform(0.5, 1.5) * PAUSE)
            return await asking
        finally:
            await asyncio.to_thread(artefact.promote, rig().models, VERSION)


def _flip(flip: int, chance: random.Random) -> None:
    models = rig().models
    if flip % 5 == 4:
        _bad(chance)
    else:
        artefact.promote(models, (VERSION, SECOND)[flip % 2])


def _bad(chance: random.Random) -> None:
    """Name a champion that is missing, corrupt, or complete but of another schema."""
    models = rig().models
    version = chance.choice((MISSING, CORRUPT, OTHER_SCHEMA))
    if version == MISSING:
        (models / CHAMPION).write_text(f"{MISSING} sha256:{'0' * 64}\n")
    else:
        write_alias(models, version)
