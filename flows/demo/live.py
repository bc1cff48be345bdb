"""The live part of the demo: flows, scorer and traffic run until every published event is logged or a dead letter."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import orjson

from feature_repo.errors import FlowError
from flows.local.live import (
    FLOWS,
    SCORER,
    TRAFFIC,
    accounted,
    free_port,
    start_flows,
    start_scorer,
    wait_for_scorer,
)
from flows.local.processes import POLL_EVERY_S, Processes
from flows.local.show import Step, Steps
from flows.settings import FlowSettings
from flows.streams import EventStream

CAUGHT_UP_WITHIN_S: Final = 120.0


def run(
    processes: Processes, steps: Steps, settings: FlowSettings, *, rate: float, seconds: float
) -> dict[str, Any]:
    """Run flows, scorer and traffic for `seconds`, then stop them.

    Return the traffic's report (`flows.traffic.report`).
    """
    before = {stream: accounted(stream, settings) for stream in FLOWS.values()}
    port = free_port()
    with steps.step("start", "Start flows and scorer") as step:
        start_flows(processes, dict.fromkeys(FLOWS, 0))
        start_scorer(processes, port)
        wait_for_scorer(processes, port)
        step.found = f"scorer at http://127.0.0.1:{port}, {len(FLOWS)} flows running"
    report = settings.home / "traffic.json"
    with steps.step("live", "Live") as step:
        options = ("--rate", f"{rate:g}", "--seconds", f"{seconds:g}", "--out", str(report))
        child = processes.start(
            TRAFFIC, "-m", "flows.traffic", "--score", f"http://127.0.0.1:{port}", *options
        )
        while child.code() is None:
            processes.check_others(child)
            _show(step, _seen(report), rate * seconds)
            time.sleep(POLL_EVERY_S * 3)
        processes.finish(TRAFFIC)
        seen = _seen(report)
        if not seen["requests"]:
            raise FlowError(
                f"no payment was scored: {seen['last_failure']}",
                where=processes.logs / "scorer.log",
                todo="read that log",
            )
        step.found = f"{seen['requests']:,} payments scored, {seen['payments']:,} published" + (
            f", [red]{seen['failed']:,} requests failed[/]: {seen['last_failure']}" if seen["failed"] else ""
        )
    with steps.step("catch_up", "Flows catch up") as step:
        for stream in FLOWS.values():
            _wait_until_accounted(processes, settings, stream, before[stream].all + seen.get(stream.name, 0))
        for name in (*FLOWS, SCORER):
            processes.stop(name)
        told = ", ".join(f"{seen[s.name]:,} {s.name}" for s in FLOWS.values() if seen.get(s.name))
        step.found = f"{told} are logged or dead letters; everything stopped"
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
        note += f", latency {latency:.1f} ms, freshness {fresh:.0f} ms"
    step.advance(seen["payments"] - seen["warm_up"]["payments"], expected, note)


def _wait_until_accounted(
    processes: Processes, settings: FlowSettings, stream: EventStream, expected: int
) -> None:
    give_up = time.monotonic() + CAUGHT_UP_WITHIN_S
    while (found := accounted(stream, settings)).all < expected:
        processes.check()
        if time.monotonic() > give_up:
            raise FlowError(
                f"{expected:,} {stream.name} were published, but only {found.logged:,} are logged and "
                f"{found.dead_letters:,} are dead letters",
                where=processes.logs / f"{stream.name}-flow.log",
                todo="read that log",
            )
        time.sleep(POLL_EVERY_S)
