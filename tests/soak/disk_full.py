"""The disk of a home fills up, or its log becomes read-only, while events arrive.

Three kinds in turn: a small tmpfs is filled to its last byte; file sizes are limited (`RLIMIT_FSIZE`), which needs no
rights and stands for a quota; this user may not write to the log folders. The flow must stop by itself with a message
that names the place and what to do. With space or rights again it must continue, with each event in the log exactly
once, and in the online store. Mounting a tmpfs needs root; without it the second kind replaces the first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import redis

from feature_repo.errors import DiskError
from flows.bootstrap import run
from flows.settings import FlowSettings
from tests.kits.flow_output import log_rows
from tests.kits.flow_process import Flow, killed_at_the_end, running_flow, start_process
from tests.kits.redis_server import BreakableServer
from tests.soak._stores import Traffic, differing, home_settings, require_exactly_once, stage

TRIALS = 30
TMPFS_MB = 32
Kind = Literal["full", "limit", "read-only"]


def trial(seed: int) -> str:
    """One kind of disk trouble, by the seed."""
    kind: Kind = ("full", "limit", "read-only")[seed % 3]  # type: ignore[assignment]
    seconds = random.Random(seed).choice([0.5, 30.0])
    with stage(checkpoint_seconds=seconds) as (server, settings), contextlib.ExitStack() as stack:
        if kind == "full" and not _mount(stack, settings.home):
            kind = "limit"
        home_settings(settings.home, server.url)  # write the views again: a mount may hide them
        return _trial(seed, kind, server, settings)


def _trial(seed: int, kind: Kind, server: BreakableServer, settings: FlowSettings) -> str:
    draw = random.Random(seed)
    client = redis.Redis.from_url(server.url)
    said = server.home / "said"
    with Traffic(server.url, settings, 250, seed) as traffic:
        bytes_a_file = draw.randrange(4_000, 60_000) if kind == "limit" else 0
        flow = LimitedFlow(settings, said)
        with killed_at_the_end(flow):
            flow.wait_for(lambda: log_rows(settings).num_rows > 200)
            time.sleep(draw.uniform(0.0, 1.0))
            if bytes_a_file:
                assert flow.pid is not None
                resource.prlimit(flow.pid, resource.RLIMIT_FSIZE, (bytes_a_file, bytes_a_file))
            with _trouble(kind, settings):
                assert flow.exit_code(30) is not None, "the flow does not stop"
                before = said.read_text()
                if draw.random() < 0.5:  # a start meanwhile ends with the same message
                    second = LimitedFlow(settings, said, bytes_a_file)
                    with killed_at_the_end(second):
                        assert second.exit_code(30) is not None, "a flow runs although it cannot write"
            message = said.read_text()
        assert "could not be written" in before, before
        assert "could not be written" in message, message
        with running_flow(settings) as flow:
            time.sleep(draw.uniform(0.2, 1.0))
            traffic.stop()
            expected = {f"p{n:010d}" for n in range(len(traffic.sent))}
            flow.wait_for(lambda: log_rows(settings).num_rows >= len(expected))
            flow.wait_for(lambda: differing(settings, client) == 0)
        require_exactly_once(settings, expected)
    return f"{kind}: {len(expected):,} events once each; {message}"


@contextlib.contextmanager
def _trouble(kind: Kind, settings: FlowSettings) -> Iterator[None]:
    """Make writing impossible for the block."""
    filler = settings.home / "filler"
    folders = [settings.log_dir / "payments", settings.staging / "payments"]
    if kind == "full":
        with filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))
    elif kind == "read-only":
        for folder in folders:
            folder.chmod(0o500)
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)
        for folder in folders:
            if folder.is_dir():
                folder.chmod(0o700)


def _mount(stack: contextlib.ExitStack, folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    if mounted:
        stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
    return mounted


class LimitedFlow(Flow):
    """A flow that may write no file larger than `bytes_a_file`, whose last message is in a file."""

    def __init__(self, settings: FlowSettings, message: Path, bytes_a_file: int = 0) -> None:
        self._message, self._bytes_a_file = message, bytes_a_file
        super().__init__(settings)

    def _started(self) -> BaseProcess:
        return start_process(_run, self.settings, self._message, self._bytes_a_file)


def _run(settings: FlowSettings, said: Path, bytes_a_file: int) -> None:
    """Run a flow that writes its last message to a file."""
    said.write_text("")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # these may be files, which the limit would hold for too
        os.dup2(nowhere, stream)
    if bytes_a_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, bytes_a_file))
    if os.geteuid() == 0:
        _give_up_overriding_rights()
    try:
        run("payments", settings)
    except DiskError as error:
        said.write_text(str(error))
        raise SystemExit(2) from error


def _give_up_overriding_rights() -> None:
    """Drop CAP_DAC_OVERRIDE (bit 1), so that file modes hold for root too (capset(2), version 3)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, data) == 0
    data[0] &= ~0b10
    assert libc.capset(header, data) == 0
