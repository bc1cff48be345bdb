"""Show the progress of a run: a bar while a step runs, then one line with its result and duration."""

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
    """A running step; `found` is printed when it is done. `began` (perf_counter) may be set to an earlier start."""

    _progress: Progress
    _task: TaskID
    began: float
    found: str = ""

    def advance(self, done: float, of: float | None, note: str = "") -> None:
        """Move the progress bar to `done` of `of`; None if the total is unknown."""
        self._progress.update(self._task, completed=done, total=of, note=note)

    def say(self, line: str) -> None:
        """Print a line that stays, below the earlier steps."""
        self._progress.console.print(f"  [dim]{line}[/]", highlight=False, soft_wrap=True)


@dataclass(slots=True)
class Steps:
    """Shows steps on a console; `seconds` holds the duration of each by its short name."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Step]:
        """Show a spinner while the block runs. Without a terminal, only the final line is printed."""
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
