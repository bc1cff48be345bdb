"""Command `python -m flows.demo`. The clock and the environment are read here."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import structlog
import typer
from rich.console import Console

from feature_repo.errors import MillstreamError
from feature_repo.redact import redact
from feature_repo.settings import RepoSettings
from feature_repo.stores.applied_views import read_views
from feature_repo.streams.payments import PAYMENTS
from flows.demo import live, summary
from flows.local import home as demo_home
from flows.local import stages
from flows.local.live import accounted
from flows.local.processes import Processes, stop_like_ctrl_c
from flows.local.redis_server import redis_server
from flows.local.show import Steps
from flows.local.stages import Scale
from flows.settings import FlowSettings

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


def run(home: Path, scale: Scale, *, seconds: float, rate: float, console: Console) -> dict[str, Any]:
    """Run the whole loop in an empty home; return the summary, which is also written to `summary.json` there."""
    began = time.perf_counter()
    steps = Steps(console)
    with redis_server(home) as url, Processes(home, url) as processes:
        settings = FlowSettings(home=home, redis_url=url, source_files="")
        steps.seconds["server"] = round(time.perf_counter() - began, 1)
        given = bool(os.environ.get("REDIS_URL"))
        console.print(
            f"  [dim]{'REDIS_URL' if given else 'embedded server'}: {redact(url)}[/]", highlight=False
        )
        apply_began = stages.begin_apply(processes)
        history = settings.home / "generated"
        stages.generate(steps, scale, history, datetime.now(UTC))
        stages.end_apply(processes, steps, settings, apply_began)
        if given:
            gone = demo_home.clear_server(url, read_views(home / "views.json").project)
            console.print(
                f"  [dim]{gone:,} keys of an earlier run removed from this server[/]", highlight=False
            )
        counts = stages.backfill(steps, settings, history)
        manifest = stages.train(processes, steps, settings)
        seen = live.run(processes, steps, settings, rate=rate, seconds=seconds)
        skew = _skew(processes, steps, settings)
        found = accounted(PAYMENTS, settings)
    steps.seconds["total"] = round(time.perf_counter() - began, 1)
    made = summary.build(
        payments_in=counts["payments"].events_in + seen["payments"],
        logged=found.logged,
        dead_letters=found.dead_letters,
        manifest=manifest,
        traffic=seen,
        skew=skew,
        seconds=steps.seconds,
    )
    written = home / "summary.json"
    written.write_bytes(orjson.dumps(made, option=orjson.OPT_INDENT_2))
    artefact = settings.models / stages.MODEL / manifest["version"]
    places = {
        "Model report": artefact / "report.html",
        "Data Docs": home / "data_docs" / "index.html",
        "Skew report": home / "skew.json",
        "Summary": written,
        "Logs": processes.logs,
    }
    summary.show(console, made, manifest=manifest, traffic=seen, places=places)
    return made


def _skew(processes: Processes, steps: Steps, settings: FlowSettings) -> dict[str, Any]:
    with steps.step("skew", "Skew report") as step:
        processes.start("skew", "-m", "training.skew", "--home", str(settings.home))
        processes.finish("skew")
        skew: dict[str, Any] = orjson.loads((settings.home / "skew.json").read_bytes())
        step.found = (
            f"{skew['compared']:,} live vectors computed again from the log: {skew['differing']:,} differ"
        )
        return skew


@app.command()
def main(
    seconds: Annotated[
        float, typer.Option(min=1, envvar="DEMO_SECONDS", help="Length of the live part, in seconds.")
    ] = 60.0,
    home: Annotated[
        Path | None,
        typer.Option(
            help="Folder of this run; it is emptied first. [default: demo in MILLSTREAM_HOME, var/demo]"
        ),
    ] = None,
    payments: Annotated[
        int, typer.Option(min=1_000, help="Approximate number of payments of the history.")
    ] = 225_000,
    accounts: Annotated[int, typer.Option(min=10, help="Number of accounts.")] = 5_000,
    merchants: Annotated[int, typer.Option(min=10, help="Number of merchants.")] = 500,
    days: Annotated[float, typer.Option(min=1, help="Days of history.")] = 30.0,
    fraud_share: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Share of payments that are fraud.")
    ] = 0.008,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed gives the same history.")] = 1,
    rate: Annotated[float, typer.Option(min=0.1, help="Live payments per second.")] = 40.0,
) -> None:
    """Run the whole loop once: history, features, model, live scores, skew report. Then stop everything."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=summary.WIDTH)
    stop_like_ctrl_c()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    scale = Scale(payments, accounts, merchants, days, fraud_share, seed)
    console.print(
        f"\n[bold]Millstream[/]  {days:g} days of payments, one model, {seconds:g} seconds live\n",
        highlight=False,
    )
    try:
        with demo_home.fresh(home or RepoSettings().home / "demo") as folder:
            run(folder, scale, seconds=seconds, rate=rate, console=console)
    except MillstreamError as error:
        console.print(f"\n[bold red]The demo stopped.[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("\n[yellow]Interrupted; everything has been stopped.[/]")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
