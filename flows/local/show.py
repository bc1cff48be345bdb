"""How a run looks: one line per step, with what it found and how long it took; a bar while it is under way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_TITLE = 22


@dataclass(slots=True)
class Step:
    """A step under way; `found` is told when it is done, `began` may be set back if it began unseen."""

    _progress: Progress
    _task: TaskID
    began: float
    found: str = ""

    def advance(self, done: float, of: float | None, note: str = "") -> None:
        """Move the bar; without `of` there is nothing to measure by."""
        self._progress.update(self._task, completed=done, total=of, note=note)

    def say(self, line: str) -> None:
        """A line that stays, below the steps before this one."""
        self._progress.console.print(f"  [dim]{line}[/]", highlight=False, soft_wrap=True)


@dataclass(slots=True)
class Steps:
    """Shows steps on a console and keeps the seconds of each, by its short name."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Step]:
        """Run a block under a spinner. Without a terminal only the finished lines are printed."""
        columns = (
            SpinnerColumn(),
            TextColumn(f"{{task.description:<{_TITLE}}}"),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            step = Step(progress, progress.add_task(title, total=None, note=""), time.perf_counter())
            try:
                yield step
            except BaseException:
                self._line("[red]✗[/]", title, time.perf_counter() - step.began, "")
                raise
        self.seconds[name] = round(time.perf_counter() - step.began, 1)
        self._line("[green]✓[/]", title, self.seconds[name], step.found)

    def _line(self, sign: str, title: str, seconds: float, found: str) -> None:
        line = f"{sign} {title:<{_TITLE}} [dim]{seconds:6.1f} s[/]  {found}"
        self.console.print(line, highlight=False, soft_wrap=True)
