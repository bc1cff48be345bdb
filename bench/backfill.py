"""How fast a backfill is: events folded and keys written per second, of three views over a made-up log, on a server of its own.

python bench/backfill.py [events]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.schemas.payment import PAYMENT_LOG
from feature_repo.stores.specs import write_views
from flows.backfill import backfill
from flows.settings import FlowSettings
from flows.stack import EmbeddedServer
from tests.flowkit import VIEWS

ROWS_A_FILE = 100_000
START_US = 1_793_491_200_000_000


def write_log(folder: Path, events: int) -> None:
    """Payments of 30 days; 50,000 accounts of Zipf activity, 5,000 merchants."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number, first in enumerate(range(0, events, ROWS_A_FILE)):
        n = min(ROWS_A_FILE, events - first)
        offsets = np.arange(first, first + n)
        times = pa.array(START_US + offsets * (30 * 86_400_000_000 // events)).cast(
            pa.timestamp("us", tz="UTC")
        )
        made = {
            "event_id": pa.array([f"p{i:010d}" for i in offsets]),
            "event_timestamp": times,
            "account_id": pa.array([f"a{i}" for i in rng.zipf(1.1, n) % 50_000]),
            "merchant_id": pa.array([f"m{i}" for i in rng.integers(0, 5_000, n)]),
            "amount": pa.array(rng.lognormal(3, 1, n)),
            "created_timestamp": times,
            "source_partition": pa.array(["bus:payments:0"] * n),
            "source_offset": pa.array(offsets),
        }
        columns = [made.get(f.name, pa.nulls(n, f.type)) for f in PAYMENT_LOG]
        pq.write_table(
            pa.Table.from_arrays([pa.array(c) for c in columns], schema=PAYMENT_LOG),
            folder / f"bus-{number:010d}.parquet",
            compression="zstd",
        )


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "server") as server:
        os.environ["REDIS_URL"] = server.url
        settings = FlowSettings(home=Path(folder) / "home", redis_url=server.url)
        write_log(settings.payments_log, events)
        write_views(settings.home / "views.json", VIEWS)
        began = time.process_time()
        backfill(settings)
        seconds = time.process_time() - began
        print(f"{seconds:.1f} s of CPU (the server's not among them)")


if __name__ == "__main__":
    main()
