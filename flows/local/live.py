"""Flows and scorer as processes of this machine: start them, wait until they are ready, count what they wrote."""

from __future__ import annotations

import http.client
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from feature_repo.errors import FlowError
from flows.local.processes import POLL_EVERY_S, Processes
from flows.settings import FlowSettings
from flows.streams import STREAMS, EventStream

READY_WITHIN_S: Final = 120.0
SCORER, TRAFFIC = "scorer", "traffic"
STARTED: Final = "flow.start"
"""What a flow logs when it begins to read."""
FLOWS: Final = {f"{s.name} flow": s for s in STREAMS.values()}
"""The flow of every declared stream, by the name of its process."""


def free_port(wanted: int = 0) -> int:
    """Return a free loopback port: `wanted` if it is free, else any."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            if not wanted:
                raise
            return free_port()
        return int(probe.getsockname()[1])


def start_flow(processes: Processes, name: str, metrics_port: int = 0) -> None:
    """Start one of `FLOWS`, with the command that users type."""
    flow = f"flows.stream:flow('{FLOWS[name].name}')"
    processes.start(name, "-m", "bytewax.run", flow, MILLSTREAM_METRICS_PORT=str(metrics_port))


def start_flows(processes: Processes, metrics_ports: dict[str, int]) -> None:
    """Start the flows named in `metrics_ports`.

    Return when all of them read, so that their start does not delay features.
    """
    for name, port in metrics_ports.items():
        start_flow(processes, name, port)
    give_up = time.monotonic() + READY_WITHIN_S
    waiting = set(metrics_ports)
    while waiting:
        processes.check()
        waiting = {name for name in waiting if STARTED not in processes.output(name)}
        if time.monotonic() > give_up:
            raise FlowError(
                f"{', '.join(sorted(waiting))} did not start within {READY_WITHIN_S:.0f} s",
                where=processes.logs,
                todo="read their logs in this folder",
            )
        time.sleep(POLL_EVERY_S)


def start_scorer(processes: Processes, port: int) -> None:
    """Start the scorer on a loopback port, with the command that users type."""
    # Only clients of this machine can reach it, so it needs no API keys unless MILLSTREAM_AUTH says so.
    auth = os.environ.get("MILLSTREAM_AUTH", "loopback")
    processes.start(SCORER, "-m", "serving", "--port", str(port), MILLSTREAM_AUTH=auth)


def wait_for_scorer(processes: Processes, port: int) -> None:
    """Return when the scorer has loaded a model and reaches the online store.

    Raises `FlowError` after `READY_WITHIN_S`.
    """
    give_up = time.monotonic() + READY_WITHIN_S
    problem = ""
    while time.monotonic() < give_up:
        processes.check()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
            connection.request("GET", "/readyz")
            found = orjson.loads(connection.getresponse().read())
            connection.close()
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError):
            found = {"checks": []}
        checks = {check["name"]: check for check in found["checks"]}
        if all(checks.get(name, {}).get("ok") for name in ("model", "store")):
            return
        problem = "; ".join(check["detail"] for check in checks.values() if not check["ok"])
        time.sleep(POLL_EVERY_S)
    raise FlowError(
        f"the scorer is not ready after {READY_WITHIN_S:.0f} s: {problem or 'it does not answer'}",
        where=processes.logs / "scorer.log",
        todo="read that log",
    )


@dataclass(frozen=True)
class Accounted:
    """Numbers of logged events and dead letters of a stream, counted in published files."""

    logged: int
    dead_letters: int

    @property
    def all(self) -> int:
        """Events that are in the log or among the dead letters."""
        return self.logged + self.dead_letters


def accounted(stream: EventStream, settings: FlowSettings) -> Accounted:
    """Count the logged events and dead letters of a stream, by the footers of the files."""
    return Accounted(rows_of(stream.log_folder(settings)), rows_of(settings.dead_letters / stream.name))


def rows_of(folder: Path, pattern: str = "*.parquet") -> int:
    """Return the number of rows of the Parquet files of a folder."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in folder.glob(pattern))
