"""Redis loses all its data, and the flow writes the online store again.

In every other trial this happens under a running flow that may continue (`MILLSTREAM_BUS_GAP=accept`). In the others
the flow must stop with a message, because its bus is gone, and continues after the operator allows it; in half of
these the checkpoints are lost too, so only the log is left. Data is removed with FLUSHALL, or by an empty server at
the same address.
"""

from __future__ import annotations

import random
import shutil
import time

import redis

from feature_repo.stores.redis_layout.view_versions import KeptVersions, versions_key
from tests.kits.flow_output import log_rows
from tests.kits.flow_process import running_flow
from tests.kits.redis_server import wipe
from tests.kits.views import VIEWS
from tests.soak._stores import Traffic, differing, require_exactly_once, stage

TRIALS = 20


def trial(seed: int) -> str:
    """One loss of all data."""
    draw = random.Random(seed)
    accepts = seed % 2 == 0
    with (
        stage(bus_gap="accept" if accepts else "stop") as (server, settings),
        Traffic(server.url, settings, 250, seed) as traffic,
    ):
        client = redis.Redis.from_url(server.url)
        with running_flow(settings) as flow:
            flow.wait_for(lambda: log_rows(settings).num_rows > 300)
            time.sleep(draw.uniform(0.2, 1.5))
            since = time.monotonic()
            wipe(server, client, flush=draw.random() < 0.5)
            traffic.send_again(since - 1.5)
            if not accepts:
                assert flow.exit_code(30), "the flow runs without its bus"
                if draw.random() < 0.5:
                    shutil.rmtree(settings.checkpoints)
                since = time.monotonic()
                flow.restart(settings.model_copy(update={"bus_gap": "accept"}))
            time.sleep(draw.uniform(0.2, 1.0))
            traffic.stop()
            expected = {f"p{n:010d}" for n in range(len(traffic.sent))}
            flow.wait_for(lambda: log_rows(settings).num_rows >= len(expected))
            flow.wait_for(lambda: differing(settings, client) == 0)
            flow.wait_for(lambda: _all_filled(client))
            seconds = time.monotonic() - since
        require_exactly_once(settings, expected)
        assert differing(settings, client) == 0
        keys = int(client.dbsize())  # type: ignore[arg-type]
    return f"{len(expected):,} events once each, {keys:,} keys, none different, {seconds:.1f} s after"


def _all_filled(client: redis.Redis) -> bool:
    """Whether all views are marked as filled again, so that a missing key means no events."""
    kept = KeptVersions.of(client.hkeys(versions_key(VIEWS.project)))  # type: ignore[arg-type]
    return all(kept.is_filled(spec) for spec in VIEWS.streams["payments"])
