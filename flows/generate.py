"""`python -m flows.generate`: payments of a seeded world, as Parquet files or as live traffic on the bus.

The edge of a process: the clock is read here, and nowhere in `flows.generator`.
"""

import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import redis
import typer
from rich.console import Console
from rich.progress import Progress, track

from feature_repo.errors import MillstreamError
from feature_repo.schemas.label import LABEL
from feature_repo.schemas.payment import PAYMENT
from flows.generator import World, epoch_us, payments_a_day, split_labels
from flows.generator.bus import publish_labels, publish_payments
from flows.settings import FlowSettings

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
console = Console(stderr=True)

_ROW_GROUP = 100_000
_REPETITIVE = ["account_id", "merchant_id", "type", "currency", "channel"]


class Target(StrEnum):
    """Where the payments go."""

    FILES = "files"
    BUS = "bus"


def write_history(
    world: World, start: datetime, end: datetime, folder: Path, *, progress: bool = False
) -> int:
    """Write payments.parquet, labels.parquet, pending_labels.parquet and world.npz; returns the payments.

    Labels that become known only after `end` are the pending ones. Payments pass through memory a few days
    at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels: list[pa.Table] = []
    count = 0
    days = max(-(-(end - start) // timedelta(days=1)), 1)
    with pq.ParquetWriter(
        folder / "payments.parquet", PAYMENT, compression="zstd", use_dictionary=_REPETITIVE
    ) as writer:
        waiting: list[pa.Table] = []
        parts = world.payments(epoch_us(start), epoch_us(end))
        for part in track(parts, "generating", total=days, console=console, disable=not progress):
            waiting.append(part.payments)
            labels.append(part.labels)
            count += part.payments.num_rows
            if sum(table.num_rows for table in waiting) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()
        writer.write_table(pa.concat_tables([PAYMENT.empty_table(), *waiting]))
    known, pending = split_labels(labels, end)
    pq.write_table(known, folder / "labels.parquet", compression="zstd")
    pq.write_table(pending, folder / "pending_labels.parquet", compression="zstd")
    world.save(folder)
    return count


def publish_live(
    client: redis.Redis,
    world: World,
    pending: pa.Table,
    *,
    rate: float,
    seconds: float | None,
    partitions: int,
) -> int:
    """Publish live traffic in real time, and pending labels as they become known; returns the payments.

    Labels of the live payments themselves lie days ahead; they wait in memory with the pending ones.
    """
    payments = 0
    start = datetime.now(UTC)
    block_seconds = 0.05
    with Progress(console=console) as progress:
        task = progress.add_task("publishing", total=None if seconds is None else rate * seconds)
        for number, block in enumerate(
            world.live(epoch_us(start), rate=rate, seconds=seconds, block_seconds=block_seconds), start=1
        ):
            due = start + timedelta(seconds=number * block_seconds)
            time.sleep(max((due - datetime.now(UTC)).total_seconds(), 0.0))
            payments += publish_payments(client, block.payments, partitions=partitions)
            known, pending = split_labels([pending, block.labels], due)
            publish_labels(client, known)
            progress.update(task, completed=payments)
    return payments


def pending_labels(folder: Path) -> pa.Table:
    """Read the labels that were not yet known when the history in this folder ended."""
    path = folder / "pending_labels.parquet"
    return pq.read_table(path) if path.exists() else LABEL.empty_table()


@app.command()
def main(
    to: Annotated[Target, typer.Option(help="Parquet files, or live traffic on the bus.")] = Target.FILES,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the history; the bus continues the one found there. [home/generated]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same world.")] = 1,
    days: Annotated[float, typer.Option(min=0.01, help="Days of history.")] = 30.0,
    until: Annotated[
        datetime | None, typer.Option(help="Where the history ends, in UTC. [default: now]")
    ] = None,
    accounts: Annotated[int, typer.Option(min=10)] = 5_000,
    merchants: Annotated[int, typer.Option(min=10)] = 500,
    payments: Annotated[int, typer.Option(min=1, help="About how many payments.")] = 225_000,
    fraud_share: Annotated[float, typer.Option(min=0, max=0.5)] = 0.008,
    rate: Annotated[float, typer.Option(min=0.1, help="Bus only: payments a second.")] = 200.0,
    seconds: Annotated[
        float, typer.Option(min=0, help="Bus only: how long; 0 goes on until interrupted.")
    ] = 60.0,
) -> None:
    """Generate a history of payments, or live traffic that goes on where it ended."""
    settings = FlowSettings()
    folder = out or settings.home / "generated"
    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    start = end - timedelta(days=days)
    began = time.perf_counter()
    try:
        if to is Target.BUS and (folder / "world.npz").exists():
            world = World.open(folder)
        else:
            world = World(
                seed,
                accounts=accounts,
                merchants=merchants,
                payments_a_day=payments_a_day(payments, epoch_us(start), epoch_us(end)),
                fraud_share=fraud_share,
            )
        if to is Target.BUS:
            where = settings.redis_url
            with redis.Redis.from_url(where) as client:
                count = publish_live(
                    client,
                    world,
                    pending_labels(folder),
                    rate=rate,
                    seconds=seconds or None,
                    partitions=settings.bus_partitions,
                )
        else:
            where = str(folder)
            count = write_history(world, start, end, folder, progress=True)
    except (MillstreamError, redis.RedisError) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    took = time.perf_counter() - began
    console.print(f"{count:,} payments to {where} in {took:.1f} s ({count / took:,.0f} a second)")


if __name__ == "__main__":
    app()
