"""One process of a flow of two is killed: the other one ends by itself, and both continue exactly after a new start.

A process without the other cannot do anything, because epochs end for all processes or for none. A cluster therefore
restarts each process that ends (systemd with `Restart=always`, a pod). Here they return one by one, in either order,
up to a second apart. The contract at the end is that of `kill_flow`.
"""

from __future__ import annotations

import random
import socket
import time
from pathlib import Path
from typing import Final

from flows.settings import FlowSettings
from tests.kits.flow_output import events_written, published_files
from tests.kits.flow_process import Flow, FlowOfCluster
from tests.soak.kill_flow import Supply, check, finished, place

TRIALS: Final = 50
KILLS: Final = 2
FOLLOWS_S: Final = 20.0


def trial(seed: int, count: int = 1_000, kills: int = KILLS) -> str:
    """Kill a random process of a cluster of two, `kills` times."""
    draw = random.Random(seed)
    supply = Supply(count, draw)
    longest = 0.0
    with place(seed) as (settings, client):
        files: dict[Path, bytes] = {}
        for life in range(kills):
            with supply.flowing(client, life, kills + 1):
                before = events_written(settings)
                both = _start(settings, draw)
                both[0].wait_for(lambda before=before: before < events_written(settings))  # type: ignore[misc]
                time.sleep(draw.random() * 0.5)
                victim = draw.randrange(2)
                both[victim].kill()
                began = time.monotonic()
                alone = both[1 - victim].exit_code(FOLLOWS_S) is None
                longest = max(longest, time.monotonic() - began)
                both[1 - victim].kill()
                assert not alone, f"process {1 - victim} still runs without the other"
                files |= published_files(settings)
        with supply.flowing(client, kills, kills + 1):
            both = _start(settings, draw)
        both[0].wait_for(lambda: finished(settings, client, supply))
        for process in both:
            process.kill()
        check(settings, client, supply, files)
    return f"{len(supply):,} entries, {kills} kills, the other one ended within {longest:.1f} s"


def _start(settings: FlowSettings, draw: random.Random) -> list[Flow]:
    """Start both processes, in either order."""
    addresses = [f"127.0.0.1:{_free_port()}" for _ in range(2)]
    first = draw.randrange(2)
    made = {first: FlowOfCluster(settings, first, addresses)}
    time.sleep(draw.random())
    made[1 - first] = FlowOfCluster(settings, 1 - first, addresses)
    return [made[0], made[1]]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
