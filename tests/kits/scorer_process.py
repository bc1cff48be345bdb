"""A scorer in a process of its own; importing this module needs no Feast."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from flows.local.live import free_port
from tests.kits.child_process import child_process


@contextlib.contextmanager
def running_scorer(home: Path, url: str, *, short: bool = False, **variables: str) -> Iterator[str]:
    """Start `uvicorn serving.app:app`, or with `short` `python -m serving`; yield its address once it accepts
    connections.

    `url` is the address of its Redis server; `variables` are added to its environment.
    """
    port = free_port()
    uvicorn = str(Path(sys.executable).with_name("uvicorn"))
    command = [sys.executable, "-m", "serving"] if short else [uvicorn, "serving.app:app"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MILLSTREAM_", "PROMETHEUS_"))}
    environment = {
        **inherited,
        "MILLSTREAM_HOME": str(home),
        "REDIS_URL": url,
        "MILLSTREAM_PSEUDONYM_KEY": "off",
        "MILLSTREAM_PENDING_SECONDS": "0",
        **variables,
    }
    with child_process(
        [*command, "--port", str(port)], environment, home / "uvicorn.log", ready=lambda: is_open(port)
    ):
        yield f"http://127.0.0.1:{port}"


def is_open(port: int) -> bool:
    """Whether a loopback port accepts connections."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def pid_of_scorer(home: Path) -> int:
    """The process id of the scorer that writes the newest score log of this home."""
    newest = max((home / "scores").glob("*.jsonl"), key=lambda path: path.name)
    return int(newest.stem.rpartition("-")[2])
