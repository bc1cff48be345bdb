"""Child processes that never outlive their parent, each with a log file, and errors that name the log to read.

Every child runs below a small shell that reads a pipe whose other end only the parent holds, as the embedded server
does (`flows.local.redis_server`): when the parent ends in any way, the kernel closes the pipe and the shell stops the
child. Each child has its own session, so that Ctrl-C reaches only the parent, which then stops the children in order.
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
from typing import Any, Final, NoReturn, Self

from feature_repo.errors import FlowError
from feature_repo.settings import PROJECT_ROOT

STOP_TIMEOUT_S: Final = 15.0
POLL_EVERY_S: Final = 0.1
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
    """One running process, whose output is appended to its log."""

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
        """Process id of the leader of its process group."""
        return self._process.pid

    def code(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """Return what this process has written so far, without colours."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return _COLOUR.sub("", file.read().decode(errors="replace"))

    def failure(self) -> FlowError:
        """Return the error for a process that ended unexpectedly."""
        return FlowError(
            f"{self.name} ended with code {self.code()}: {last_words(self.output())}",
            where=self.log,
            todo="read that log; it holds all output of the process",
        )

    def stop(self) -> None:
        """Send SIGTERM, SIGKILL after `STOP_TIMEOUT_S`, and wait until the process has ended."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


class Processes:
    """All child processes of one run. Leaving the block stops them in reverse order of start."""

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
        """Start `python <arguments>` with `variables` in its environment; its log is `logs/<name>.log`."""
        log = self.logs / f"{name.replace(' ', '-')}.log"
        child = Child(name, list(arguments), self._environment | variables, log)
        self._children[name] = child
        return child

    def stop(self, name: str) -> None:
        """Stop the process `name`, if it still runs, and forget it."""
        child = self._children.pop(name, None)
        if child is not None:
            child.stop()

    def output(self, name: str) -> str:
        """Return what the process `name` has written so far."""
        return self._children[name].output()

    def ended(self) -> list[Child]:
        """Return the processes that have ended without being stopped."""
        return [child for child in self._children.values() if child.code() is not None]

    def check(self) -> None:
        """Raise `FlowError` if any process has ended."""
        self.check_others(None)

    def check_others(self, awaited: Child | None) -> None:
        """Raise `FlowError` if any process but `awaited` has ended."""
        for child in self.ended():
            if child is not awaited:
                raise child.failure()

    def finish(self, name: str, on_line: Callable[[str], None] = lambda _: None) -> None:
        """Wait until the process `name` ends; pass each line of its output to `on_line`.

        Raises `FlowError` if it fails, or if another process ends meanwhile.
        """
        child = self._children[name]
        passed = 0
        while True:
            code = child.code()
            lines = child.output().split("\n")
            for line in lines[passed:-1]:
                on_line(line)
            passed = len(lines) - 1
            if code is not None:
                break
            self.check_others(child)
            time.sleep(POLL_EVERY_S)
        if code:
            raise child.failure()
        self.stop(name)


def environment(home: Path, redis_url: str) -> dict[str, str]:
    """Return the environment of the children: this home and this server, whatever the current environment says."""
    given = {k: v for k, v in os.environ.items() if k != "MILLSTREAM_SOURCE_FILES"}
    return given | {
        "MILLSTREAM_HOME": str(home),
        "REDIS_URL": redis_url,
        "COLUMNS": "200",
        "PYTHONWARNINGS": "ignore::RuntimeWarning",
        "PYTHONUNBUFFERED": "1",
    }


def last_words(output: str) -> str:
    r"""Return the most helpful line about why a process ended: the last one that is not a structured log line.

    >>> last_words('Traceback ...\nValueError: no\n{"event": "bye"}\n')
    'ValueError: no'
    """
    lines = [line.strip() for line in output[-_TAIL_BYTES:].splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith("{")]
    return (plain or lines or ["it wrote no output"])[-1]


def stop_like_ctrl_c() -> None:
    """Make SIGTERM raise `KeyboardInterrupt`, as Ctrl-C does, so that all started processes are stopped."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
