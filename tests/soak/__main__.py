"""`python -m tests.soak [name ...] [--seed N] [--trials N]`: heavy trials, each with a seed of its own that brings it back."""

from __future__ import annotations

import importlib
import pkgutil
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
) -> None:
    """Run trials; ends with 1 if one failed, and says which seed brings it back."""
    if unknown := sorted({*(names or ())} - {*kinds()}):
        raise typer.BadParameter(f"no such trials: {', '.join(unknown)}; there are {', '.join(kinds())}")
    failed = 0
    for name in names or kinds():
        failed += _run(name, seed, trials)
    raise typer.Exit(1 if failed else 0)


def _run(name: str, first: int, trials: int | None) -> int:
    kind: Any = importlib.import_module(f"tests.soak.{name}")
    n = trials or kind.TRIALS
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
