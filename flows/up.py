"""`python -m flows.up`: run the whole stack on this machine until Ctrl-C.

Server, flows, scorer, and optionally traffic.

An empty home first gets a generated history and a model; another one continues where it stopped. A flow that ends is
started again a few times. If any other process ends, it is reported and everything stops.
"""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import structlog
import typer
from rich.console import Console

from feature_repo.errors import MillstreamError
from feature_repo.redact import redact
from feature_repo.settings import RepoSettings
from flows.local import live, stages
from flows.local.live import FLOWS, TRAFFIC
from flows.local.processes import Processes, stop_like_ctrl_c
from flows.local.redis_server import redis_server
from flows.local.show import Steps
from flows.local.stages import Scale
from flows.settings import FlowSettings

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)

RESTARTS: Final = 5
RESET_AFTER_S: Final = 300.0
"""The count of restarts of a flow is reset after it has run for so long."""


class Supervisor:
    """Restarts flows that have ended; `restarts` holds the number of restarts per flow."""

    def __init__(self, processes: Processes, console: Console, metrics_ports: dict[str, int]) -> None:
        self._processes = processes
        self._console = console
        self._ports = metrics_ports
        self._started = dict.fromkeys(metrics_ports, time.monotonic())
        self.restarts = dict.fromkeys(metrics_ports, 0)

    def check(self) -> None:
        """Restart flows that have ended.

        Raises `FlowError` if another process has ended, or a flow more than `RESTARTS` times.
        """
        for child in self._processes.ended():
            if child.name not in self._ports or self.restarts[child.name] >= RESTARTS:
                raise child.failure()
            if time.monotonic() - self._started[child.name] > RESET_AFTER_S:
                self.restarts[child.name] = 0
            self.restarts[child.name] += 1
            self._console.print(
                f"[yellow]{child.failure()}[/] Started again, {self.restarts[child.name]} of {RESTARTS}.",
                highlight=False,
                soft_wrap=True,
            )
            self._processes.stop(child.name)
            time.sleep(min(2.0 ** (self.restarts[child.name] - 1), 10.0))
            live.start_flow(self._processes, child.name, self._ports[child.name])
            self._started[child.name] = time.monotonic()


def run(settings: FlowSettings, scale: Scale, *, port: int, rate: float, console: Console) -> None:
    """Start everything, print the addresses, and supervise until interrupted."""
    steps = Steps(console)
    home = settings.home
    with redis_server(home) as url, Processes(home, url) as processes:
        settings = settings.model_copy(update={"redis_url": url})
        prepare(processes, steps, settings, scale)
        ports = {name: live.free_port() for name in FLOWS}
        port = live.free_port(port)
        with steps.step("start", "Start the scorer"):
            live.start_scorer(processes, port)
            live.wait_for_scorer(processes, port)
        with steps.step("flows", "Start the flows"):
            live.start_flows(processes, ports)
        if rate:
            options = ("--rate", f"{rate:g}", "--seconds", "0", "--score", f"http://127.0.0.1:{port}")
            processes.start(TRAFFIC, "-m", "flows.traffic", *options)
        show_addresses(console, settings, port, ports, rate)
        supervisor = Supervisor(processes, console, ports)
        while True:
            supervisor.check()
            time.sleep(0.5)


def run_server(settings: FlowSettings, console: Console) -> None:
    """Run only the Redis server, for users who start the other parts themselves."""
    with redis_server(settings.home) as url:
        console.print(f"  [bold cyan]Redis[/]  REDIS_URL={redact(url)}", highlight=False)
        console.print(
            f"\n  Every process with MILLSTREAM_HOME={settings.home} uses it. Ctrl-C stops it.\n",
            highlight=False,
        )
        signal.pause()


def prepare(processes: Processes, steps: Steps, settings: FlowSettings, scale: Scale) -> None:
    """Apply the definitions if they have changed; generate history and train a model if there are none."""
    applied = stages.is_applied(settings)
    began = 0.0 if applied else stages.begin_apply(processes)
    history = settings.home / "generated"
    empty = not any(settings.payments_log.glob("*.parquet"))
    if empty and not (history / "world.npz").exists():
        stages.generate(steps, scale, history, datetime.now(UTC))
    if not applied:
        stages.end_apply(processes, steps, settings, began)
    if empty or _unfinished(settings, history):
        stages.backfill(steps, settings, history)
    if not (settings.models / stages.MODEL / "champion").exists():
        stages.train(processes, steps, settings)


def _unfinished(settings: FlowSettings, history: Path) -> bool:
    """Return whether an earlier backfill of the generated history was interrupted; running it again continues it."""
    return any(
        sum(live.rows_of(folder, "files-*.parquet") for folder in folders)
        < live.rows_of(history, f"{stream.name}.parquet")
        for stream in FLOWS.values()
        for folders in [(stream.log_folder(settings), settings.dead_letters / stream.name)]
    )


def show_addresses(
    console: Console, settings: FlowSettings, port: int, metrics: dict[str, int], rate: float
) -> None:
    """Print the addresses of all parts."""
    config = settings.home / "feature_store.yaml"
    ui = f"feast -f {config} ui" if config.exists() else "feast ui"
    rows = {
        "Score a payment": f"http://127.0.0.1:{port}/docs",
        "Scorer": f"http://127.0.0.1:{port}/readyz   http://127.0.0.1:{port}/metrics",
        "Flow metrics": "   ".join(f"http://127.0.0.1:{p}/metrics" for p in metrics.values()),
        "Redis": f"REDIS_URL={redact(settings.redis_url)}",
        "Feature UI": f"cd feature_repo && {ui}",
        "Traffic": f"{rate:g} payments per second, {settings.home / 'traffic.json'}"
        if rate
        else "none (option --traffic)",
        "Logs": settings.home / "logs",
    }
    console.print()
    for name, value in rows.items():
        console.print(f"  [bold cyan]{name:<16}[/] {value}", highlight=False, soft_wrap=True)
    console.print("\n  Ctrl-C stops everything; the next start continues from here.\n", highlight=False)


@app.command()
def main(
    home: Annotated[
        Path | None, typer.Option(help="Folder of log, states and models. [default: MILLSTREAM_HOME, var]")
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port of the scorer; if it is in use, a free one is taken.")
    ] = 8000,
    traffic: Annotated[bool, typer.Option("--traffic", help="Score and publish live payments.")] = False,
    rate: Annotated[float, typer.Option(min=0.1, help="Live payments per second, with --traffic.")] = 5.0,
    only_server: Annotated[
        bool,
        typer.Option("--only-server", help="Run only the Redis server, to start the other parts yourself."),
    ] = False,
    payments: Annotated[
        int, typer.Option(min=1_000, help="Payments of the history that is generated in an empty home.")
    ] = 225_000,
    accounts: Annotated[int, typer.Option(min=10, help="Accounts of that history.")] = 5_000,
    merchants: Annotated[int, typer.Option(min=10, help="Merchants of that history.")] = 500,
    fraud_share: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Share of its payments that are fraud.")
    ] = 0.008,
) -> None:
    """Run the whole stack until Ctrl-C, and print its addresses."""
    console = Console()
    stop_like_ctrl_c()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    settings = FlowSettings(home=(home or RepoSettings().home).resolve(), source_files="")
    scale = Scale(payments, accounts, merchants, fraud_share=fraud_share)
    console.print("\n[bold]Millstream[/]\n")
    try:
        if only_server:
            run_server(settings, console)
        run(settings, scale, port=port, rate=rate if traffic else 0.0, console=console)
    except MillstreamError as error:
        console.print(f"\n[bold red]Stopped.[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("\n[yellow]Everything has been stopped.[/]")
        raise typer.Exit(0) from None


if __name__ == "__main__":
    app()
