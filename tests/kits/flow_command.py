"""A flow started as an operator starts it, so that it can start itself again; what it logs is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from flows.settings import FlowSettings

RUN = ("-m", "flows.run", "payments")
BYTEWAX = ("-m", "bytewax.run", "flows.payments")


class FlowCommand:
    """The process of `python <command>` with these settings; killed when the block ends."""

    def __init__(self, settings: FlowSettings, *command: str) -> None:
        self._log = Path(settings.home).parent / "flow.log"
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, *command], env=os.environ | _variables(settings), stderr=out
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def logged(self, event: str) -> int:
        """How many log lines of an event there are, of all flows of this home."""
        return self._log.read_text(errors="replace").count(f'"event": "{event}"')


def _variables(settings: FlowSettings) -> dict[str, str]:
    """Settings that were given, as environment variables."""
    names = {"redis_url": "REDIS_URL", "recovery_mode": "MILLSTREAM_RECOVERY"}
    given = settings.model_dump(include=settings.model_fields_set - {"pseudonym_key"})
    return {names.get(name, f"MILLSTREAM_{name.upper()}"): str(value) for name, value in given.items()}
