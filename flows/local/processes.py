"""Child processes that cannot outlive us, each with a log file, and errors that say which log to read.

Every child runs below a tiny shell that reads a pipe whose other end only we hold, as the embedded server does
(`flows.local.redis_server`): when we end, however we end, the kernel closes the pipe and the shell stops the child. Each pair sits in
a session of its own, so that Ctrl-C reaches us first and we stop things in an order.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from feature_repo.errors import FlowError
from feature_repo.settings import PROJECT_ROOT

STOP_TIMEOUT_S: Final = 15.0
LOOK_EVERY_S: Final = 0.1
_TAIL_BYTES: Final = 8192
_COLOUR: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_WATCHDOG: Final = """
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
{ read -r _ <&3; kill -TERM $child; } 2>/dev/null &
reader=$!
wait $child
status=$?
kill $reader 2>/dev/null
exit $status
"""


class Child:
    """One running process; what it says goes to its log, appended."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._from = log.stat().st_size if log.exists() else 0
        with log.open("ab") as out:
            self._process: subprocess.Popen[Any] = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, "sh", sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=PROJECT_ROOT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The leader of its process group."""
        return self._process.pid

    def code(self) -> int | None:
        """Exit code, None while it runs."""
        return self._process.poll()

    def said(self) -> str:
        """What this process has written so far."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return _COLOUR.sub("", file.read().decode(errors="replace"))

    def failure(self) -> FlowError:
        """What to tell about a process that ended when it should not have."""
        return FlowError(
            f"{self.name} ended with code {self.code()}: {last_words(self.said())}",
            where=self.log,
            todo="read that log; it holds everything the process said",
        )

    def stop(self) -> None:
        """Ask it to end, insist after a while, and wait until it is gone."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


class Processes:
    """All children of one run. Leaving the block stops them, the last started first."""

    def __init__(self, home: Path, redis_url: str) -> None:
        self.logs = home / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._environment = environment(home, redis_url)
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._children)):
            self.stop(name)

    def start(self, name: str, *arguments: str, **variables: str) -> Child:
        """Start `python <arguments>`, its log in `logs/<name>.log`."""
        log = self.logs / f"{name.replace(' ', '-')}.log"
        child = Child(name, list(arguments), self._environment | variables, log)
        self._children[name] = child
        return child

    def stop(self, name: str) -> None:
        """Stop one; one that has ended already is only forgotten."""
        child = self._children.pop(name, None)
        if child is not None:
            child.stop()

    def said(self, name: str) -> str:
        """What one has written so far."""
        return self._children[name].said()

    def ended(self) -> list[Child]:
        """Those that have ended and were not stopped by us."""
        return [child for child in self._children.values() if child.code() is not None]

    def check(self) -> None:
        """Raise if any of them has ended."""
        self.check_others(None)

    def check_others(self, awaited: Child | None) -> None:
        """Raise if any has ended but the one that may."""
        for child in self.ended():
            if child is not awaited:
                raise child.failure()

    def finish(self, name: str, on_line: Callable[[str], None] = lambda _: None) -> None:
        """Wait for one to end by itself, telling its lines as they come; raises if it or another one fails."""
        child = self._children[name]
        told = 0
        while True:
            code = child.code()
            lines = child.said().split("\n")
            for line in lines[told:-1]:
                on_line(line)
            told = len(lines) - 1
            if code is not None:
                break
            self.check_others(child)
            time.sleep(LOOK_EVERY_S)
        if code:
            raise child.failure()
        self.stop(name)


def environment(home: Path, redis_url: str) -> dict[str, str]:
    """What every child gets: this home and this server, whatever the shell's own settings say."""
    given = {k: v for k, v in os.environ.items() if k != "MILLSTREAM_SOURCE_FILES"}
    return given | {
        "MILLSTREAM_HOME": str(home),
        "REDIS_URL": redis_url,
        "COLUMNS": "200",
        "PYTHONWARNINGS": "ignore::RuntimeWarning",
        "PYTHONUNBUFFERED": "1",
    }


def last_words(said: str) -> str:
    r"""The line that says most about why a process ended: the last one that is no structured log line.

    >>> last_words('Traceback ...\nValueError: no\n{"event": "bye"}\n')
    'ValueError: no'
    """
    lines = [line.strip() for line in said[-_TAIL_BYTES:].splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith("{")]
    return (plain or lines or ["it said nothing"])[-1]
