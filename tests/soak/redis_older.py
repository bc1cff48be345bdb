"""Redis loses its last writes as in a power cut: it is killed and started again from an older part of its append-only
file.

In every other trial the flow runs meanwhile, and in a third of these it is killed soon after; otherwise it is down
(killed with -9 before). The producer continues and sends again what it had sent in the lost span. At the end each
event must be in the log exactly once, and every online key of windowed and plain views must equal the log.
"""

from __future__ import annotations

import random
import time

import redis

from tests.kits.flow_output import log_rows
from tests.kits.flow_process import running_flow
from tests.soak._stores import Traffic, differing, require_exactly_once, stage

TRIALS = 50


def trial(seed: int) -> str:
    """One power cut."""
    draw = random.Random(seed)
    running = seed % 2 == 0
    with stage() as (server, settings), Traffic(server.url, settings, 250, seed) as traffic:
        client = redis.Redis.from_url(server.url)
        with running_flow(settings) as flow:
            flow.wait_for(lambda: log_rows(settings).num_rows > 300)
            time.sleep(draw.uniform(0.5, 1.5))
            lost_since, size = time.monotonic(), server.file.stat().st_size
            time.sleep(draw.uniform(0.05, 1.5))
            if not running:
                flow.kill()
            server.kill()
            lost_bytes = server.file.stat().st_size - size
            server.start_again(size)
            traffic.send_again(lost_since - 0.2)
            if running and seed % 3 == 0:
                time.sleep(draw.uniform(0.0, 1.5))
                flow.kill()
                running = False
            if not running:
                flow.restart()
            back = time.monotonic()
            time.sleep(draw.uniform(0.2, 1.0))
            traffic.stop()
            expected = {f"p{n:010d}" for n in range(len(traffic.sent))}
            flow.wait_for(lambda: log_rows(settings).num_rows >= len(expected))
            flow.wait_for(lambda: differing(settings, client) == 0)
            seconds = time.monotonic() - back
        require_exactly_once(settings, expected)
        assert differing(settings, client) == 0
    return f"{lost_bytes:,} bytes lost; {len(expected):,} events once each, no key different {seconds:.1f} s after"
