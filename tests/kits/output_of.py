"""A flow in a process of its own whose every word is kept: imported by that process, so it imports little."""

from __future__ import annotations

import os
from multiprocessing.process import BaseProcess
from pathlib import Path

from flows.bootstrap import run
from flows.process import logs
from flows.settings import FlowSettings
from tests.kits.flows_running import _context


def start_saying(settings: FlowSettings, stream: str, out: Path) -> BaseProcess:
    """Start a flow; what it writes to standard output and error goes to a file."""
    process = _context.Process(target=_run, args=(settings, stream, out), daemon=True)
    process.start()
    return process


def _run(settings: FlowSettings, stream: str, out: Path) -> None:
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logs.configure("json")
    run(stream, settings)
