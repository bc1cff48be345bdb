"""A scorer as a process of its own, for tests that need no Feast: importing this is quick."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from feature_repo.settings import PROJECT_ROOT


@contextlib.contextmanager
def uvicorn(home: Path, url: str, *, short: bool = False, **variables: str) -> Iterator[str]:
    """`uvicorn serving.app:app` as its user types it, or the short way, `python -m serving`; yields the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MILLSTREAM_", "PROMETHEUS_"))}
    command = (
        [sys.executable, "-m", "serving"]
        if short
        else [str(Path(sys.executable).with_name("uvicorn")), "serving.app:app"]
    )
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=PROJECT_ROOT,
        env=environment
        | {"MILLSTREAM_HOME": str(home), "REDIS_URL": url, "MILLSTREAM_PSEUDONYM_KEY": "off"}
        | {"MILLSTREAM_PENDING_SECONDS": "0"}
        | variables,
        stdout=subprocess.DEVNULL,
        stderr=(home / "uvicorn.log").open("ab"),
    )
    try:
        give_up = time.monotonic() + 180  # the first one compiles kernels
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, (home / "uvicorn.log").read_text()
            assert time.monotonic() < give_up, "uvicorn did not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
