"""Rounds, medians, targets and the machine: what every benchmark reports.

A figure is the median of at least five rounds. A reference runs in the same session on the same data, its rounds
between ours, so that other work on the machine disturbs both. A ratio is always "how many times better than the
reference", whether more or less is better.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

import psutil
from rich.console import Console
from rich.table import Table

ROUNDS: Final = 5
RESULTS: Final = Path(__file__).parent / "results"
PARTS: Final = RESULTS / "parts"

console: Final = Console()


@dataclass(frozen=True)
class Target:
    """What a figure, or its ratio to the reference, must reach."""

    of: Literal["ratio", "figure"]
    is_: Literal["at least", "at most"]
    value: float

    def met(self, figure: float, ratio: float | None) -> bool:
        measured = figure if self.of == "figure" else ratio
        if measured is None:
            return False
        return measured >= self.value if self.is_ == "at least" else measured <= self.value

    def __str__(self) -> str:
        return f"{self.of} {'>=' if self.is_ == 'at least' else '<='} {self.value:g}"


@dataclass(frozen=True)
class Result:
    """One line of the results: the median of the rounds, the reference's, and whether the target was reached.

    `low` and `high` are the extremes of the rounds; `note` says what else a reader must know.
    """

    name: str
    figure: float
    unit: str
    reference: str | None
    reference_figure: float | None
    ratio: float | None
    rounds: int
    target: str
    met: bool
    low: float
    high: float
    note: str = ""


@dataclass
class Report:
    """The results of one benchmark, printed and written when it ends."""

    benchmark: str
    results: list[Result] = field(default_factory=list)

    def add(
        self,
        name: str,
        figures: Sequence[float],
        unit: str,
        target: Target,
        *,
        reference: str | None = None,
        references: Sequence[float] = (),
        less_is_better: bool = False,
        note: str = "",
    ) -> Result:
        """Make one result from our rounds and, if there is a reference, as many rounds of it in the same order."""
        figure = statistics.median(figures)
        ratio = None
        if references:
            pairs = zip(figures, references, strict=True)
            ratio = statistics.median(
                theirs / ours if less_is_better else ours / theirs for ours, theirs in pairs
            )
        result = Result(
            name,
            figure,
            unit,
            reference,
            statistics.median(references) if references else None,
            ratio,
            len(figures),
            str(target),
            target.met(figure, ratio),
            min(figures),
            max(figures),
            note,
        )
        self.results.append(result)
        return result

    def finish(self) -> None:
        """Print the table and write this benchmark's part of the results."""
        console.print(table(self.results, self.benchmark))
        PARTS.mkdir(parents=True, exist_ok=True)
        path = PARTS / f"{self.benchmark}.json"
        path.write_text(json.dumps([asdict(r) for r in self.results], indent=1) + "\n")


def table(results: Sequence[Result], title: str) -> Table:
    made = Table(title=title, title_justify="left")
    for column in ("name", "figure", "spread", "unit", "reference", "its figure", "ratio", "target", "met"):
        made.add_column(column, justify="left" if column in {"name", "unit", "reference"} else "right")
    for r in results:
        made.add_row(
            r.name,
            number(r.figure),
            f"{number(r.low)} - {number(r.high)}",
            r.unit,
            r.reference or "-",
            number(r.reference_figure),
            "-" if r.ratio is None else f"{r.ratio:.2f}x",
            r.target,
            "[green]yes[/]" if r.met else "[red]no[/]",
        )
    return made


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class CpuClock:
    """CPU seconds (user and system) of this process and of others named by pid, with threads and living children."""

    def __init__(self, *pids: int) -> None:
        self._processes = [psutil.Process(pid) for pid in (pids or (os.getpid(),))]

    def __call__(self) -> float:
        total = 0.0
        for process in self._processes:
            for one in (process, *process.children(recursive=True)):
                times = one.cpu_times()
                total += times.user + times.system
        return total


@dataclass
class Span:
    """Wall and CPU seconds of this process for a timed block."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def timed() -> Iterator[Span]:
    span = Span()
    wall, cpu = time.perf_counter(), time.process_time()
    yield span
    span.wall, span.cpu = time.perf_counter() - wall, time.process_time() - cpu


def percentile(values: Sequence[float], q: float) -> float:
    """The value at rank `q` percent (nearest rank), of unsorted values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q / 100 * len(ordered)) - 1)]


def machine() -> dict[str, str]:
    """Describe the machine that the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
