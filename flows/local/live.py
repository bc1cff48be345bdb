"""The live part: flows, scorer and traffic as processes of their own, until everything published has been accounted for."""

from __future__ import annotations

import http.client
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from feature_repo.errors import FlowError
from feature_repo.streams.charges import CHARGES
from feature_repo.streams.customers import CUSTOMERS
from feature_repo.streams.labels import LABELS
from feature_repo.streams.merchants import MERCHANTS
from feature_repo.streams.payments import PAYMENTS
from flows.local.processes import LOOK_EVERY_S, Processes
from flows.local.show import Step, Steps
from flows.settings import FlowSettings
from flows.streams import EventStream

READY_WITHIN_S: Final = 120.0
CAUGHT_UP_WITHIN_S: Final = 120.0
SCORER, TRAFFIC = "scorer", "traffic"
STARTED: Final = "flow.start"
"""What a flow logs when it begins to read."""
FLOWS: Final = {f"{s.name} flow": s for s in (PAYMENTS, LABELS, CUSTOMERS, MERCHANTS, CHARGES)}
"""The flows of a whole stack, by the names their processes go by; the first one is what a scorer waits for."""


def free_port(wanted: int = 0) -> int:
    """A free loopback port: the wanted one if it is, else any."""
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
    """Start one of `FLOWS`, as its user types it."""
    processes.start(
        name, "-m", "bytewax.run", f"flows.{FLOWS[name].name}", MILLSTREAM_METRICS_PORT=str(metrics_port)
    )


def start_flows(processes: Processes, metrics_ports: dict[str, int]) -> None:
    """Start all of `FLOWS`, and return when each of them runs: what starts is too busy to be fresh."""
    for name, port in metrics_ports.items():
        start_flow(processes, name, port)
    give_up = time.monotonic() + READY_WITHIN_S
    waiting = set(metrics_ports)
    while waiting:
        processes.check()
        waiting = {name for name in waiting if STARTED not in processes.said(name)}
        if time.monotonic() > give_up:
            raise FlowError(
                f"{', '.join(sorted(waiting))} did not start within {READY_WITHIN_S:.0f} s",
                where=processes.logs,
                todo="read their logs there",
            )
        time.sleep(LOOK_EVERY_S)


def start_scorer(processes: Processes, port: int) -> None:
    """Start the scorer, as its user types it, at a loopback port."""
    # For this machine only, and asked by our own traffic: without keys, unless somebody says so.
    auth = os.environ.get("MILLSTREAM_AUTH", "loopback")
    processes.start(SCORER, "-m", "serving", "--port", str(port), MILLSTREAM_AUTH=auth)


def wait_for_scorer(processes: Processes, port: int) -> None:
    """Return when it has loaded a model and reaches the online store."""
    give_up = time.monotonic() + READY_WITHIN_S
    said = ""
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
        said = "; ".join(check["detail"] for check in checks.values() if not check["ok"])
        time.sleep(LOOK_EVERY_S)
    raise FlowError(
        f"the scorer is not ready after {READY_WITHIN_S:.0f} s: {said or 'it does not answer'}",
        where=processes.logs / "scorer.log",
        todo="read that log",
    )


@dataclass(frozen=True)
class Accounted:
    """What has become of a stream's events, counted in published files."""

    logged: int
    dead_letters: int

    @property
    def all(self) -> int:
        """Events that are in the log or among the dead letters."""
        return self.logged + self.dead_letters


def accounted(stream: EventStream, settings: FlowSettings) -> Accounted:
    """Count rows by the footers of the files."""
    return Accounted(rows_of(stream.log_folder(settings)), rows_of(settings.dead_letters / stream.name))


def rows_of(folder: Path, pattern: str = "*.parquet") -> int:
    """Rows of the Parquet files of a folder."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in folder.glob(pattern))


def run(
    processes: Processes, steps: Steps, settings: FlowSettings, *, rate: float, seconds: float
) -> dict[str, Any]:
    """Go live for so long; returns what the traffic has seen. All live processes have been stopped then."""
    before = {stream: accounted(stream, settings) for stream in FLOWS.values()}
    port = free_port()
    with steps.step("start", "Start flows and scorer") as step:
        start_flows(processes, dict.fromkeys(FLOWS, 0))
        start_scorer(processes, port)
        wait_for_scorer(processes, port)
        step.found = (
            f"scorer at http://127.0.0.1:{port}, features kept by bytewax.run flows.payments and four more"
        )
    report = settings.home / "traffic.json"
    with steps.step("live", "Live") as step:
        options = ("--rate", f"{rate:g}", "--seconds", f"{seconds:g}", "--out", str(report))
        child = processes.start(
            TRAFFIC, "-m", "flows.traffic", "--score", f"http://127.0.0.1:{port}", *options
        )
        while child.code() is None:
            processes.check_others(child)
            _show(step, _seen(report), rate * seconds)
            time.sleep(LOOK_EVERY_S * 3)
        processes.finish(TRAFFIC)
        seen = _seen(report)
        if not seen["requests"]:
            raise FlowError(
                f"no payment was scored: {seen['last_failure']}",
                where=processes.logs / "scorer.log",
                todo="read that log",
            )
        step.found = f"{seen['payments']:,} payments published, {seen['requests']:,} scored" + (
            f", [red]{seen['failed']:,} requests failed[/]: {seen['last_failure']}" if seen["failed"] else ""
        )
    with steps.step("catch_up", "Flows catch up") as step:
        for stream in FLOWS.values():
            _wait_until_accounted(processes, settings, stream, before[stream].all + seen[stream.name])
        for name in (*FLOWS, SCORER):
            processes.stop(name)
        told = ", ".join(f"{seen[s.name]:,} {s.name}" for s in FLOWS.values() if seen[s.name])
        step.found = f"{told} accounted for, everything stopped"
    return seen


def _seen(report: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(report.read_bytes())
    except FileNotFoundError:
        return {"payments": 0, "requests": 0, "warm_up": {}}
    return found


def _show(step: Step, seen: dict[str, Any], expected: float) -> None:
    if not seen["warm_up"]:
        step.advance(0, None, "warming up")
        return
    latency, fresh = seen["latency_ms"]["p50"], seen["freshness_ms"]["p50"]
    note = f"{seen['requests']:,} scored"
    if latency is not None and fresh is not None:
        note += f", score {latency:.1f} ms, features {fresh:.0f} ms behind the bus"
    step.advance(seen["payments"] - seen["warm_up"]["payments"], expected, note)


def _wait_until_accounted(
    processes: Processes, settings: FlowSettings, stream: EventStream, expected: int
) -> None:
    give_up = time.monotonic() + CAUGHT_UP_WITHIN_S
    while (found := accounted(stream, settings)).all < expected:
        processes.check()
        if time.monotonic() > give_up:
            raise FlowError(
                f"{expected:,} {stream.name} went in, but only {found.logged:,} are logged and "
                f"{found.dead_letters:,} are dead letters",
                where=processes.logs / f"{stream.name}-flow.log",
                todo="read that log",
            )
        time.sleep(LOOK_EVERY_S)
