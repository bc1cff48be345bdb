"""The flow of workload W1 as a process: warms up, prints `ready`, waits for a line, then runs until it is killed.

The warm-up runs over a small file in a home of its own, so that imports are done and kernels compiled before anything
is measured.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench import w1, w1_stream
from flows.bootstrap import run
from flows.process import logs
from flows.settings import FlowSettings
from flows.sources.redis_entries import EntryReader

WARM_UP: int = 3_000


def main() -> None:
    """Settings come from `MILLSTREAM_...` variables."""
    run(w1_stream.NAME, get_ready())


def get_ready() -> FlowSettings:
    """Register the stream, compile and load everything, say so, and wait for a line."""
    w1_stream.register()
    settings = FlowSettings()
    logs.configure("json")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "warm_up.jsonl"
        path.write_bytes(b"\n".join(w1_stream.as_json(w1.payments(WARM_UP, accounts=100, seed=2))))
        warm = settings.model_copy(update={"home": Path(folder), "source_files": str(path), "epoch_ms": 50})
        w1_stream.apply(warm)
        run(w1_stream.NAME, warm)
    EntryReader(1).read(_answer)
    w1_stream.apply(settings)
    print("ready", flush=True)
    sys.stdin.readline()
    return settings


def _answer(buffer: memoryview) -> int:
    """What a bus without news says."""
    buffer[:5] = b"*-1\r\n"
    return 5


if __name__ == "__main__":
    main()
