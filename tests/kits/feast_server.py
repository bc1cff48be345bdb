"""Feast's own servers as child processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Self

from flows.local.live import free_port
from tests.kits.child_process import child_process
from tests.kits.scorer_process import is_open
from tests.kits.waiting import wait_until


class FeastServer:
    """`feast serve` or `feast serve_offline` on a free port of loopback, from entering the block to its end."""

    def __init__(
        self, command: str, config: Path, repo: Path, environment: dict[str, str], log: Path
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        feast = str(Path(sys.executable).with_name("feast"))
        words = [feast, "-f", str(config), command, "--host", "127.0.0.1", "--port", str(self.port)]
        self._log = log
        self._child = child_process(words, os.environ | environment, log, folder=repo)

    def __enter__(self) -> Self:
        self._process = self._child.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._child.__exit__(None, None, None)

    def wait(self) -> None:
        """Return when the port is open."""
        wait_until(
            lambda: is_open(self.port),
            what=f"port of {self._log.stem}",
            alive=lambda: self._process.poll() is None,
        )
