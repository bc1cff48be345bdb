"""Command `python -m flows.traffic`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import redis
import typer
from rich.console import Console

from feature_repo import privacy
from feature_repo.errors import MillstreamError
from flows.generate import World
from flows.generate.command import pending_labels
from flows.settings import FlowSettings
from flows.traffic.freshness import FreshnessProbe
from flows.traffic.live import Traffic
from flows.traffic.scoring import ScoreClient

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
console = Console(stderr=True)


@app.command()
def main(
    rate: Annotated[float, typer.Option(min=0.1, help="Payments per second.")] = 40.0,
    seconds: Annotated[
        float, typer.Option(min=0, help="Length of the run; 0 runs until interrupted.")
    ] = 60.0,
    score: Annotated[
        str, typer.Option(help="Base address of the scorer. Empty: publish only.")
    ] = "http://127.0.0.1:8000",
    connections: Annotated[
        int, typer.Option(min=1, max=256, help="Maximum number of requests in flight.")
    ] = 8,
    warm_up: Annotated[
        float, typer.Option(min=0, help="Seconds of traffic before the measurement begins.")
    ] = 2.0,
    world: Annotated[
        Path | None,
        typer.Option(help="Folder of the generated history to continue. [default: <home>/generated]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Path of the report. [default: <home>/traffic.json]")
    ] = None,
) -> None:
    """Ask for the score of live payments of the generated world, and publish each on the bus once it is answered."""
    settings = FlowSettings()
    folder = world or settings.home / "generated"
    sys.setswitchinterval(
        0.001
    )  # threads take turns every millisecond, so that an answer is read soon after it arrives
    try:
        with redis.Redis.from_url(settings.redis_url) as client:
            traffic = Traffic(
                client=client,
                world=World.open(folder) if (folder / "world.npz").exists() else World(),
                pending=pending_labels(folder),
                rate=rate,
                partitions=settings.bus_partitions,
                out=out or settings.home / "traffic.json",
                scores=ScoreClient(score, connections) if score else None,
                probe=FreshnessProbe(client, settings.home / "views.json", privacy.of_settings(settings)),
            )
            traffic.run(seconds=seconds or None, warm_up_seconds=warm_up)
    except (MillstreamError, redis.RedisError) as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    console.print(f"{traffic.payments:,} payments and {traffic.labels:,} labels published: {traffic.out}")


if __name__ == "__main__":
    app()
