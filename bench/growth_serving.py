"""How the cost of a payment's features grows with the number of views and features, and with the events of a key.

Writes `results/growth/`: CPU microseconds per payment in the reader, without the round trip; the smallest of several
blocks, because other work on the machine can only add time.

python -m bench.growth_serving
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import redis

from bench import w1
from bench.harness import RESULTS, console
from bench.home import served
from bench.online_read import payments
from feature_repo.stores.reader.plan import Plan
from feature_repo.stores.reader.reader import Reader
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.read_views import ViewReads
from feature_repo.windows.state import KeyIndex, ViewState
from serving.bootstrap import REPO

VIEWS = (1, 2, 4, 8, 12, 16)
EVENTS = (0, 16, 64, 256, 512, 1024, 2048)
BLOCK, BLOCKS = 50, 16


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    by_views()
    by_events()


def by_views() -> None:
    windows, everything = [], []
    with served() as (built, url):
        plan = Plan.load(built.artefact / "plan.json")
        rows = payments(built)[: BLOCK * BLOCKS]
        for count in VIEWS:
            part = replace(plan, windowed=plan.windowed[:count], plain=(), on_demand=(), columns=())
            part = replace(
                part, columns=tuple((name, "float64") for r in part.windowed for name in r.spec.feature_names)
            )
            windows.append([len(part.columns), microseconds(Reader(part, REPO), rows, url)])
        everything.append([len(plan.columns), microseconds(Reader(plan, REPO), rows, url)])
    save(
        "read_features",
        "Finishing one payment's features, by their number",
        "features",
        {"windowed views only": windows, "fraud service, on-demand and plain views too": everything},
    )


def microseconds(reader: Reader, rows: list[tuple[dict[str, Any], int]], url: str) -> float:
    replies = []
    with redis.Redis.from_url(url) as client:
        for row, _ in rows:
            pipe = client.pipeline(transaction=False)
            for key, fields in reader.commands(row):
                pipe.hmget(key, fields)
            replies.append(pipe.execute())

    def one(i: int) -> None:
        row, as_of_us = rows[i]
        reader.vector(row, replies[i], as_of_us, as_of_us)

    return least(one)


def by_events() -> None:
    spec = w1.account_view(capacity=1024)
    points = []
    for count in EVENTS:
        state: bytes | None = None
        if count:
            rows = w1.payments(count, accounts=1)
            view, index = ViewState(spec), KeyIndex()
            block = BlockColumns(rows)
            view.fold(index.slots(block.keys(("account_id",))), block.events(spec))
            state = view.pack(np.arange(1))[0].tobytes()
        reads, at = ViewReads([spec]), w1.START_US + w1.SPAN_US
        points.append([count, least(lambda _, r=reads, s=state, t=at: r.read([s], t, t))])  # type: ignore[misc]
    save(
        "read_events",
        f"Finishing one exact view ({len(spec.aggregates)} features), by the key's events within 30 days",
        "events of the key",
        {"capacity 1,024: at most so many are looked at": points},
    )


def least(one: Callable[[int], object]) -> float:
    """Microseconds of CPU a call, the least of the blocks."""
    best = float("inf")
    for block in range(BLOCKS):
        began = time.process_time()
        for i in range(block * BLOCK, (block + 1) * BLOCK):
            one(i)
        best = min(best, time.process_time() - began)
    return best / BLOCK * 1e6


def save(name: str, title: str, x_label: str, series: dict[str, list[list[float]]]) -> None:
    folder = RESULTS / "growth"
    folder.mkdir(parents=True, exist_ok=True)
    made = {"title": title, "x_label": x_label, "y_label": "us of CPU", "series": series}
    (folder / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")
    for label, points in series.items():
        console.print(f"{name}, {label}: " + ", ".join(f"{x:g}: {y:.0f}" for x, y in points))


if __name__ == "__main__":
    main()
