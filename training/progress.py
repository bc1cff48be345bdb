"""Print one line per step of a run, with its result and duration."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn


@dataclass(slots=True)
class Step:
    """A running step; `found` is the result that is printed when it is done."""

    _progress: Progress
    _task: TaskID
    found: str = ""

    def advance(self, note: str, done: int, of: int) -> None:
        """Move the progress bar to `done` of `of`."""
        self._progress.update(self._task, completed=done, total=of, note=note, visible=True)


@dataclass(slots=True)
class Steps:
    """Shows steps on a console; `seconds` holds the duration of each by its short name."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Step]:
        """Show a spinner while the block runs; on success print one line."""
        started = time.perf_counter()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            step = Step(progress, progress.add_task(title, total=None, note=""))
            yield step
        self.seconds[name] = time.perf_counter() - started
        line = f"[green]✓[/] {title:<26} [dim]{self.seconds[name]:6.1f} s[/]  {step.found}"
        self.console.print(line, highlight=False, soft_wrap=True)
