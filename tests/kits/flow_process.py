"""A flow in a process of its own: start it, publish payments, wait for what it writes, kill it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import redis

from feature_repo.errors import MillstreamError
from feature_repo.stores.applied_views import AppliedViews
from flows import bootstrap
from flows.process import logs, recovery
from flows.settings import FlowSettings
from tests.kits.flow_output import events_written, states_from_log, states_online
from tests.kits.payments import publish
from tests.kits.views import VIEWS
from tests.kits.waiting import wait_until

RUN = ("-m", "flows.run", "payments")
BYTEWAX = ("-m", "bytewax.run", "flows.payments")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.kits.flow_preload"])


def start_process(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Call a function in a process forked from one that has imported everything a flow imports."""
    process = _context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


class Flow:
    """The running flow of one stream; `start` again after `kill` continues on the same home."""

    def __init__(self, settings: FlowSettings, stream: str = "payments", *, workers: int = 1) -> None:
        self.settings, self.stream, self.workers = settings, stream, workers
        self._process = self._started()

    def _started(self) -> BaseProcess:
        return start_process(bootstrap.run, self.stream, self.settings, self.workers)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def exit_code(self, seconds: float) -> int | None:
        """Wait up to `seconds` for the end; None if the process still runs."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """Kill -9; does nothing to a process that has ended."""
        self._process.kill()
        self._process.join()

    def restart(self, settings: FlowSettings | None = None) -> None:
        """Kill the process and start another one, with other settings if given."""
        self.kill()
        self.settings = settings or self.settings
        self._process = self._started()

    def publish(self, payloads: Sequence[bytes], partition: int = 0, first_ms: int | None = None) -> None:
        """Put payloads on the bus of this flow."""
        with redis.Redis.from_url(self.settings.redis_url) as client:
            publish(client, payloads, partition, first_ms, stream=self.stream)

    def wait_for(
        self, condition: Callable[[], bool], what: str = "the condition", seconds: float = 180
    ) -> None:
        """Wait until `condition()` is true while the flow runs."""
        wait_until(condition, seconds, what, alive=self.is_alive)

    def wait_for_events(self, count: int, seconds: float = 180) -> None:
        """Wait until `count` events of the home are in the log or among the dead letters, and not more."""
        written = partial(events_written, self.settings, self.stream)
        self.wait_for(lambda: written() >= count, f"{count:,} events written", seconds)
        assert written() == count

    def wait_for_states(self, client: redis.Redis, views: AppliedViews = VIEWS, seconds: float = 180) -> None:
        """Wait until the online store holds what the log folds to."""
        self.wait_for(
            lambda: states_online(client, views) == states_from_log(self.settings, client, views),
            "the online store equal to the log",
            seconds,
        )


class FlowWithOutput(Flow):
    """A flow whose standard output and error go to a file; it ends with code 2 on an error of Millstream's own."""

    def __init__(self, settings: FlowSettings, output: Path, stream: str = "payments") -> None:
        self.output = output
        super().__init__(settings, stream)

    def _started(self) -> BaseProcess:
        return start_process(_run_with_output, self.settings, self.stream, self.output)


class FlowOfCluster(Flow):
    """One process of a cluster, as started by `python -m bytewax.run flows.<stream> -i <id> -a <addresses>`."""

    def __init__(self, settings: FlowSettings, process_id: int, addresses: list[str]) -> None:
        self._place = process_id, addresses
        super().__init__(settings)

    def _started(self) -> BaseProcess:
        return start_process(_run_in_cluster, self.settings, self.stream, *self._place)


class FlowCommand(Flow):
    """A flow started by a command line, so that it can start itself again; its log lines are kept."""

    _process: Any

    def __init__(self, settings: FlowSettings, command: Sequence[str], **variables: str) -> None:
        self._command, self._variables = command, variables
        self._log = Path(settings.home).parent / "flow.log"
        super().__init__(settings)

    def _started(self) -> Any:
        environment = os.environ | _variables(self.settings) | self._variables
        with self._log.open("ab") as out:
            return subprocess.Popen([sys.executable, *self._command], env=environment, stderr=out)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def log_lines(self, event: str) -> int:
        """How many log lines of an event there are, of all flows of this home."""
        return self._log.read_text(errors="replace").count(f'"event": "{event}"')


@contextlib.contextmanager
def running_flow(
    settings: FlowSettings,
    stream: str = "payments",
    *,
    workers: int = 1,
    output: Path | None = None,
) -> Iterator[Flow]:
    """Start a flow; it is killed when the block ends."""
    flow = FlowWithOutput(settings, output, stream) if output else Flow(settings, stream, workers=workers)
    with killed_at_the_end(flow):
        yield flow


@contextlib.contextmanager
def running_command(settings: FlowSettings, *command: str, **variables: str) -> Iterator[FlowCommand]:
    """Start a flow as `python <command>` with these settings and environment variables; killed when the block ends."""
    flow = FlowCommand(settings, command, **variables)
    with killed_at_the_end(flow):
        yield flow


@contextlib.contextmanager
def killed_at_the_end(*flows: Flow) -> Iterator[None]:
    """Kill the processes of these flows when the block ends."""
    try:
        yield
    finally:
        for flow in flows:
            flow.kill()


def run_to_end(settings: FlowSettings, stream: str = "payments", seconds: float = 120) -> None:
    """Run a flow over files in a process of its own."""
    with running_flow(settings, stream) as flow:
        assert flow.exit_code(seconds) == 0


def run_until(settings: FlowSettings, count: int, stream: str = "payments", linger: float = 0.0) -> None:
    """Run a flow until `count` events are written and for `linger` seconds more."""
    with running_flow(settings, stream) as flow:
        flow.wait_for_events(count, 240)
        assert flow.exit_code(linger) is None


def _run_with_output(settings: FlowSettings, stream: str, output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logs.configure("json")
    try:
        bootstrap.run(stream, settings)
    except MillstreamError as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(2) from error


def _run_in_cluster(settings: FlowSettings, stream: str, process_id: int, addresses: list[str]) -> None:
    recovery.run_options = lambda: {"process_id": process_id}
    bootstrap._cli_main = partial(bootstrap._cli_main, process_id=process_id, addresses=addresses)
    bootstrap.run(stream, settings)


def _variables(settings: FlowSettings) -> dict[str, str]:
    """Settings that were given, as environment variables."""
    names = {"redis_url": "REDIS_URL", "recovery_mode": "MILLSTREAM_RECOVERY"}
    given = settings.model_dump(include=settings.model_fields_set - {"pseudonym_key"})
    return {names.get(name, f"MILLSTREAM_{name.upper()}"): str(value) for name, value in given.items()}
