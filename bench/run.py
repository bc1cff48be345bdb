"""Run all benchmarks one after the other: tables, `results/latest.json` and plots (`make bench`).

Each runs in a process of its own, so that imports and compiled kernels of one cannot affect another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.harness import PARTS, RESULTS, Result, console, machine, table
from bench.plots import draw

BENCHMARKS: Final = {
    "kernel": ("kernel",),
    "stream": ("stream", "stream_2_workers"),
    "online_write": ("online_write",),
    "freshness": ("freshness",),
    "online_read": ("online_read",),
    "score": ("score",),
    "model": ("model",),
    "point_in_time_join": ("point_in_time_join",),
    "training_set": ("training_set",),
    "restart": ("restart",),
    "memory": ("memory",),
    "start": ("start",),
}
"""Modules of this package, in the order they run, and the results each must bring."""
GROWTH: Final = ("growth_kernel", "growth_stream", "growth_store", "growth_serving")
ROOT: Final = Path(__file__).parent.parent


def main() -> int:
    """Run the chosen benchmarks; return how many gave no result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [*BENCHMARKS, *GROWTH]
    parser.add_argument(
        "only", nargs="*", metavar="benchmark", help=f"run only these (default: all): {', '.join(known)}"
    )
    chosen = parser.parse_args().only or known
    if unknown := sorted({*chosen} - {*known}):
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known)}")
    here = machine()
    console.print(", ".join(here.values()))
    PARTS.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    failed = [name for name in chosen if not _run(name)]
    results = _gather()
    latest = RESULTS / "latest.json"
    latest.write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "machine.json").write_text(json.dumps(here, indent=1) + "\n")
    draw(RESULTS)
    console.print(table([Result(**r) for r in results], "Millstream against what people use today"))
    missed = [r["name"] for r in results if not r["met"]]
    console.print(
        f"{len(results)} figures in {time.monotonic() - began:.0f} s; targets missed: {', '.join(missed) or 'none'}."
        f" Written: {latest.relative_to(ROOT)} and the plots beside it."
    )
    if failed:
        console.print(f"[red]No result from: {', '.join(failed)}; see their output above.[/]")
    return len(failed)


def _run(name: str) -> bool:
    console.rule(name)
    (PARTS / f"{name}.json").unlink(missing_ok=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"bench.{name}"], cwd=ROOT, check=False)
    console.print(f"[dim]{name}: {time.monotonic() - began:.0f} s[/]")
    return done.returncode == 0


def _gather() -> list[dict[str, object]]:
    """The parts of every benchmark, in the order of `BENCHMARKS`; of those not run now, what an earlier run left."""
    found = []
    for name in BENCHMARKS:
        path = PARTS / f"{name}.json"
        if path.exists():
            found += json.loads(path.read_text())
    return found


if __name__ == "__main__":
    sys.exit(main())
