"""Events per CPU-second of each stage of the flow, alone, in one process: `python bench/flow_stages.py`.

Prints one line per stage, best of three rounds over the same blocks; kernels are compiled before anything is measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from feature_repo.settings import PROJECT_ROOT
from feature_repo.stores.projection import EntityProjection
from feature_repo.stores.specs import AppliedViews, group_by_stream, read_views
from feature_repo.windows.spec import Aggregate, ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.blocks import RawBlock
from flows.connectors.online import connect
from flows.connectors.staged import Folders, StagedPart
from flows.pipeline import SUITES
from flows.settings import FlowSettings
from flows.steps.admit import Admission
from flows.steps.check import Checker, load_suite
from flows.steps.decode import Decoder
from flows.steps.route import cut
from flows.streams import PAYMENTS

EVENTS = 131_072
BLOCK = 4_096
HOUR = 3_600_000_000


def blocks() -> list[RawBlock]:
    """Payments as on the bus: 5,000 accounts, 500 merchants, 100 a second."""
    draw = np.random.default_rng(1)
    accounts, merchants = draw.zipf(1.3, EVENTS) % 5_000, draw.integers(0, 500, EVENTS)
    made = []
    for first in range(0, EVENTS, BLOCK):
        payloads = []
        for i in range(first, first + BLOCK):
            seconds, rest = divmod(i, 100)
            at = f"2026-11-{1 + seconds // 86400:02d}T{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:02d}0000Z"
            event = {
                "event_id": f"pay-{i:012d}",
                "event_timestamp": at,
                "account_id": f"acc-{accounts[i]:05d}",
                "merchant_id": f"mer-{merchants[i]:04d}",
                "type": "PAYMENT",
                "amount": round(float(draw.lognormal(3, 1)), 2),
                "currency": "EUR",
                "account_balance_before": 1000.5,
                "account_balance_after": 900.25,
                "latitude": 48.137,
                "longitude": 11.576,
                "channel": "app",
                "device_id": f"dev-{accounts[i]:05d}",
            }
            payloads.append(msgspec.json.encode(event))
        offsets = np.arange(first, first + BLOCK)
        made.append(
            RawBlock("bus:payments:0", first - 1, offsets, offsets * 10_000 + 1_793_491_200_000_000, payloads)
        )
    return made


def measure(name: str, work: Callable[[], Any], events: int = EVENTS) -> None:
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    print(f"{name:28} {events / best:12,.0f} events/CPU-s   {best / events * 1e6:6.2f} us")


def views() -> AppliedViews:
    """The applied views of this home, else two like those of the repo."""
    path = FlowSettings().home / "views.json"
    if path.exists():
        return read_views(path)
    sums = tuple(Aggregate(f"sum_{h}h", "sum", "amount", h * HOUR) for h in (1, 24))
    return AppliedViews(
        "bench",
        group_by_stream(
            ("payments", ViewSpec(f"{key}_recent", (f"{key}_id",), 0, 1024, 600_000_000, sums))
            for key in ("account", "merchant")
        ),
    )


def main() -> None:
    raw = blocks()
    decode = Decoder(PAYMENTS)
    measure("decode", lambda: [decode(block) for block in raw])
    decoded = [decode(block) for block in raw]
    check = Checker(load_suite(SUITES / "payments.json", PAYMENTS.schema))
    measure("check", lambda: [check(events) for events in decoded])
    with tempfile.TemporaryDirectory() as folder:
        settings = FlowSettings(home=Path(folder))
        measure("admit", lambda: Admission(PAYMENTS, settings, "bus", None).on_batch(decoded))
        part = StagedPart(
            "bus", Folders("payments", Path(folder) / "log", Path(folder) / "s"), PAYMENTS.log_schema, None
        )

        def write() -> None:
            part.write_batch([events.rows for events in decoded])
            part.snapshot()

        measure("log (Parquet, fsync)", write)
    applied = views()
    entities = applied.entities("payments")
    print(f"views: {', '.join(spec.name for specs in entities.values() for spec in specs)}")
    cut(decoded[0].rows, entities, 16)
    measure("route", lambda: [cut(events.rows, entities, 16) for events in decoded])
    pieces = [piece for events in decoded for piece in cut(events.rows, entities, 16)]
    client = connect(settings)
    projections = {e: EntityProjection(client, applied.project, specs) for e, specs in entities.items()}

    def fold(*, pack: bool) -> None:
        parts: dict[Any, tuple[KeyIndex, list[ViewState]]] = {}
        for piece in pieces:
            where = (piece.entity, piece.shard)
            if where not in parts:
                parts[where] = (KeyIndex(), [ViewState(spec) for spec in entities[piece.entity]])
            index, states = parts[where]
            slots = index.slots(piece.keys)
            for state, columns in zip(states, piece.columns, strict=True):
                state.fold(slots, columns)
            if pack:
                projections[piece.entity].rows(index, states, np.unique(slots))

    fold(pack=True)
    measure("fold", lambda: fold(pack=False))
    measure("fold, states packed", lambda: fold(pack=True))


if __name__ == "__main__":
    print(
        f"{EVENTS:,} payments in blocks of {BLOCK:,}; suite and schema from {PROJECT_ROOT.name}/feature_repo"
    )
    main()
