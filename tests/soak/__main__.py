"""`python -m tests.soak [name ...] [--seed N] [--trials N] [--jobs N]`: heavy trials, each with a seed of its own that brings it back."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import subprocess
import sys
import time
import traceback
from typing import Annotated, Any

import typer
from rich.console import Console

import tests.soak

console = Console()


def kinds() -> list[str]:
    """The modules of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(tests.soak.__path__) if not m.name.startswith("_"))


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Kinds of trial; all if none is named")] = None,
    seed: Annotated[
        int, typer.Option(help="The first trial's seed; each further trial has the next one")
    ] = 0,
    trials: Annotated[int | None, typer.Option(min=1, help="How many; a full run if it is not said")] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="Processes that share the seeds of a kind; kinds that speak of times run in one"
        ),
    ] = 1,
) -> None:
    """Run trials; ends with 1 if one failed, and says which seed brings it back."""
    if unknown := sorted({*(names or ())} - {*kinds()}):
        raise typer.BadParameter(f"no such trials: {', '.join(unknown)}; there are {', '.join(kinds())}")
    failed = 0
    for name in names or kinds():
        kind: Any = importlib.import_module(f"tests.soak.{name}")
        n = trials or kind.TRIALS
        together = 1 if getattr(kind, "ALONE", False) else min(jobs, n)
        failed += _shared(name, seed, n, together) if together > 1 else _run(name, kind, seed, n)
    raise typer.Exit(1 if failed else 0)


def _shared(name: str, first: int, n: int, jobs: int) -> int:
    """Trials in several processes, each with its share of the seeds; returns in how many of them one failed."""
    bounds = [first + n * job // jobs for job in range(jobs + 1)]
    shares = [
        [sys.executable, "-m", "tests.soak", name, "--seed", f"{begin}", "--trials", f"{end - begin}"]
        for begin, end in itertools.pairwise(bounds)
    ]
    running = [subprocess.Popen(share) for share in shares]
    try:
        return sum(process.wait() != 0 for process in running)
    finally:
        for process in running:
            process.terminate()


def _run(name: str, kind: Any, first: int, n: int) -> int:
    """Trials one after the other; returns how many failed."""
    console.rule(f"{name}: {n:,} trials")
    began, said, failed = time.monotonic(), 0.0, 0
    for seed in range(first, first + n):
        try:
            saw = kind.trial(seed)
        except Exception:  # noqa: BLE001  whatever a trial raises is what it found
            failed += 1
            traceback.print_exc()
            console.print(
                f"[red]{name}: seed {seed} failed.[/] Again: python -m tests.soak {name} --seed {seed} --trials 1"
            )
            continue
        now = time.monotonic()
        if now - said > 2 or seed == first + n - 1:
            said = now
            console.print(f"{name} {seed - first + 1:,}/{n:,} in {now - began:.0f} s, seed {seed}: {saw}")
    console.print(f"{name}: {n - failed:,} of {n:,} held, {time.monotonic() - began:.0f} s")
    return failed


if __name__ == "__main__":
    typer.run(main)
