"""How the cost of a row in history grows with the window's length, events per key, aggregations and keys.

CPU microseconds per row for 200,000 payments, each as of itself, with columns in memory; the smallest of three runs.
Writes `results/growth/*.json`.

python -m bench.growth_kernel
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Final

from bench import w1
from bench.harness import RESULTS, console
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.history.answer import EventColumns, answer
from feature_repo.windows.history.queries import Queries
from feature_repo.windows.history.view import HistoryView
from feature_repo.windows.spec import Aggregate, ViewSpec

EVENTS: Final = 200_000
CAPACITY: Final = 1 << 20
HOUR: Final = 3_600 * w1.SECOND
FUNCTIONS: Final = ("count", "sum", "mean", "max")
Series = dict[str, list[tuple[float, float]]]


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    payments = BlockColumns(w1.payments(EVENTS))
    kinds = {"exact": 0, "tiled, 1 h": HOUR}
    write(
        "kernel_window",
        "Cost of a row by the length of the window",
        "hours",
        {
            kind: [(hours, cost(payments, spec(hop, [hours * HOUR]))) for hours in (1, 6, 24, 168, 720)]
            for kind, hop in kinds.items()
        },
    )
    write(
        "kernel_aggregations",
        "Cost of a row by the number of aggregations",
        "aggregations",
        {
            kind: [
                (4 * n, cost(payments, spec(hop, [(i + 1) * HOUR for i in range(n)])))
                for n in (1, 2, 4, 8, 16)
            ]
            for kind, hop in kinds.items()
        },
    )
    by_keys: Series = {kind: [] for kind in kinds}
    by_events: Series = {kind: [] for kind in kinds}
    for accounts in (100, 1_000, 10_000, 100_000):
        block = BlockColumns(w1.payments(EVENTS, accounts=accounts))
        for kind, hop in kinds.items():
            seconds = cost(block, spec(hop, [HOUR, 24 * HOUR]))
            by_keys[kind].append((accounts, seconds))
            by_events[kind].insert(0, (EVENTS / accounts, seconds))
    write("kernel_keys", "Cost of a row by the number of keys", "keys", by_keys)
    write("kernel_events_per_key", "Cost of a row by events per key", "events per key", by_events)


def spec(hop: int, windows: list[int]) -> ViewSpec:
    aggregates = tuple(Aggregate(f"{f}_{w}", f, "amount", w) for w in windows for f in FUNCTIONS)
    return ViewSpec("growth", ("account_id",), hop, CAPACITY, 0, aggregates)


def cost(block: BlockColumns, spec: ViewSpec) -> float:
    """CPU microseconds a row."""
    hashes, times = block.key_hashes(spec.join_keys), block.times("event_timestamp")
    seconds = []
    for _ in range(3):
        began = time.process_time()
        queries = Queries(hashes, times)
        events = EventColumns(
            queries.key_ids(hashes),
            times,
            {n: block.values(n) for n in spec.values},
            {},
            lambda: block.ids("event_id"),
        )
        answer([HistoryView(spec, queries.n, spec.values, ())], queries, events)
        seconds.append(time.process_time() - began)
    return min(seconds) / len(times) * 1e6


def write(name: str, title: str, x_label: str, series: Series) -> None:
    folder = RESULTS / "growth"
    folder.mkdir(parents=True, exist_ok=True)
    made = {"title": title, "x_label": x_label, "y_label": "CPU us a row", "series": series}
    (folder / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")
    console.print(f"{title}: {series}")


if __name__ == "__main__":
    main()
