"""Run heavy trials: `python -m tests.soak [name ...] [--seed N] [--trials N] [--jobs N]`."""

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
    """The names of all kinds of trial: the modules of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(tests.soak.__path__) if not m.name.startswith("_"))


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Kinds of trial; default: all")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first trial; each further trial adds one")] = 0,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of trials of each kind; default: a full run")
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="Processes that share the seeds of a kind; kinds that measure times always use one"
        ),
    ] = 1,
) -> None:
    """Run trials; exits with 1 if one failed and prints the seed that repeats it."""
    if unknown := sorted({*(names or ())} - {*kinds()}):
        raise typer.BadParameter(f"unknown trials: {', '.join(unknown)}; choose from {', '.join(kinds())}")
    failed = 0
    for name in names or kinds():
        kind: Any = importlib.import_module(f"tests.soak.{name}")
        n = trials or kind.TRIALS
        together = 1 if getattr(kind, "ALONE", False) else min(jobs, n)
        failed += _shared(name, seed, n, together) if together > 1 else _run(name, kind, seed, n)
    raise typer.Exit(1 if failed else 0)


def _shared(name: str, first: int, n: int, jobs: int) -> int:
    """Run the trials in several processes, each with a part of the seeds; return how many processes had a failure."""
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
    """Run the trials one after the other; return how many failed."""
    console.rule(f"{name}: {n:,} trials")
    began, said, failed = time.monotonic(), 0.0, 0
    for seed in range(first, first + n):
        try:
            saw = kind.trial(seed)
        except Exception:  # noqa: BLE001  any exception is the trial's result
            failed += 1
            traceback.print_exc()
            console.print(
                f"[red]{name}: seed {seed} failed.[/] Repeat it with: python -m tests.soak {name} --seed {seed} --trials 1"
            )
            continue
        now = time.monotonic()
        if now - said > 2 or seed == first + n - 1:
            said = now
            console.print(f"{name} {seed - first + 1:,}/{n:,} in {now - began:.0f} s, seed {seed}: {saw}")
    console.print(f"{name}: {n - failed:,} of {n:,} passed, {time.monotonic() - began:.0f} s")
    return failed


if __name__ == "__main__":
    typer.run(main)
