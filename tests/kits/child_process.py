"""Run a command as a child process that ends with its block."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from feature_repo.settings import PROJECT_ROOT
from tests.kits.waiting import wait_until


@contextlib.contextmanager
def child_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    *,
    folder: Path = PROJECT_ROOT,
    ready: Callable[[], bool] | None = None,
    timeout: float = 180.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start `command` in `folder`; what it prints is appended to `log`.

    Yields once `ready()` is true. At the end the process is terminated, and killed if it has not ended 60 s later.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        if ready is not None:
            try:
                wait_until(ready, timeout, "ready", alive=lambda: process.poll() is None, every=0.02)
            except AssertionError as error:
                raise AssertionError(f"{error}: {log.read_text(errors='replace')[-4000:]}") from None
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
