"""Real files in a folder of their own: a crash may come at any operation, published files must stay.

Python says beforehand that it is about to open, rename or remove a file (`sys.addaudithook`); that is where a process
may die. What it was writing then is left cut off at any length. Checkpoints are written by a thread of the process:
here by `Writer`, whenever its turn comes, or never.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Self

_watching: list[Disk] = []


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in ("open", "os.rename", "os.remove"):
        _watching[-1].is_about_to(event, arguments)


class Disk:
    """The home folder of a trial. `published`: folders whose files must never change."""

    _hooked = False

    def __init__(
        self, home: Path, published: tuple[Path, ...], point: Callable[[], None], draw: Random
    ) -> None:
        self.home, self._published = home, published
        self._point, self._draw = point, draw
        self._known: dict[Path, bytes] = {}

    def __enter__(self) -> Self:
        if not Disk._hooked:
            sys.addaudithook(_on_event)
            Disk._hooked = True
        _watching.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _watching.remove(self)

    def is_about_to(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An operation begins."""
        where = arguments[1] if event == "os.rename" else arguments[0]
        if isinstance(where, int) or not os.fspath(where).startswith(str(self.home)):
            return
        path = Path(where)
        self._point()
        if event == "os.remove":
            assert path.parent not in self._published, f"{path} was published, and is about to be removed"
        if event == "os.rename" and path.parent in self._published and Path(arguments[0]).exists():
            assert path not in self._known, f"{path} was published, and is about to be replaced"

    def look(self) -> None:
        """Hash what is published; raise if something of it has changed or is gone."""
        found = {path: _hash(path) for folder in self._published for path in folder.glob("*")}
        for path, before in self._known.items():
            assert found.get(path) == before, f"{path} was published, and has changed since"
        self._known = found

    def crash(self) -> None:
        """Files that were being written are left cut off."""
        for path in sorted(self.home.rglob(".*.tmp")):
            size = path.stat().st_size
            if size and self._draw.random() < 0.7:
                os.truncate(path, self._draw.randrange(size))


def _hash(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()


class _Job:
    """Stands for a `Future`."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self._made, self._done = work, None, False
        self._callbacks: list[Callable[[Any], None]] = []

    def run(self) -> None:
        if not self._done:
            self._made, self._done = self._work(), True
            for callback in self._callbacks:
                callback(self)

    def done(self) -> bool:
        return self._done

    def result(self) -> Any:
        self.run()
        return self._made

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)


class Writer:
    """Stands for the executor of checkpoints: one job after the other, when `work` is called."""

    def __init__(self) -> None:
        self._jobs: deque[_Job] = deque()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> _Job:
        job = _Job(lambda: function(*arguments))
        self._jobs.append(job)
        return job

    def work(self) -> None:
        """Do the next job, if there is one."""
        if self._jobs:
            self._jobs.popleft().run()
