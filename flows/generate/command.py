"""`python -m flows.generate`: events of a seeded world, as Parquet files or as live traffic on the bus or Kafka.

The clock is read only here, nowhere else in `flows.generate`.
"""

import contextlib
import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq
import redis
import typer
from rich.console import Console
from rich.progress import Progress, track

from feature_repo.declare.stream import CREATED_TIMESTAMP
from feature_repo.errors import MillstreamError
from feature_repo.streams.charges import CHARGES
from feature_repo.streams.labels import LABELS
from feature_repo.streams.payments import PAYMENTS
from flows.generate import World, epoch_us, payments_a_day, split_labels
from flows.publish.bus import BusPublisher
from flows.publish.topics import TopicPublisher
from flows.settings import FlowSettings

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
console = Console(stderr=True)

_ROW_GROUP = 100_000
_REPETITIVE = {
    "payments": ["account_id", "merchant_id", "type", "currency", "channel"],
    "charges": ["card_network", "entry_mode", "three_ds_result", "issuer_country"],
}


class Target(StrEnum):
    """Destination of the events."""

    FILES = "files"
    BUS = "bus"
    KAFKA = "kafka"


class Publisher(Protocol):
    """A destination of live events."""

    def publish(self, stream: str, rows: pa.Table) -> int:
        """Append rows of a stream; return how many were acknowledged."""


def write_history(
    world: World, start: datetime, end: datetime, folder: Path, *, progress: bool = False
) -> int:
    """Write the history that `main` describes; return its number of payments.

    Payments and charges are in memory a few days at a time. In the files of customers, merchants and charges,
    `created_timestamp` is the arrival of each row, which can be later than its event time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels: list[pa.Table] = []
    customers, merchants = [], []
    count = 0
    days = max(-(-(end - start) // timedelta(days=1)), 1)
    with (
        _Rows(folder / "payments.parquet", PAYMENTS.schema) as payments,
        _Rows(folder / "charges.parquet", CHARGES.schema.append(CREATED_TIMESTAMP.field)) as charges,
    ):
        parts = world.payments(epoch_us(start), epoch_us(end))
        for part in track(parts, "generating", total=days, console=console, disable=not progress):
            payments.add(part.payments)
            charges.add(part.charges.stamped())
            labels.append(part.labels)
            customers.append(part.customers.stamped())
            merchants.append(part.merchants.stamped())
            count += part.payments.num_rows
    known, pending = split_labels(labels, end)
    for name, table in (
        ("labels", known),
        ("pending_labels", pending),
        ("customers", pa.concat_tables(customers)),
        ("merchants", pa.concat_tables(merchants)),
    ):
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    world.save(folder)
    return count


class _Rows:
    """A Parquet file written in row groups of about `_ROW_GROUP` rows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._waiting: list[pa.Table] = [schema.empty_table()]
        self._writer = pq.ParquetWriter(
            path, schema, compression="zstd", use_dictionary=_REPETITIVE[path.stem]
        )

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(table.num_rows for table in self._waiting) >= _ROW_GROUP:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting:
            self._write()
        self._writer.close()


def publish_live(
    publisher: Publisher,
    world: World,
    pending: pa.Table,
    *,
    rate: float,
    seconds: float | None,
) -> int:
    """Publish live traffic in real time, and pending labels as they become known; return the number of payments.

    Labels of the live payments become known days later and are kept in memory with the pending ones. In each block,
    customers and merchants are published first, then charges, then payments.
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
            publisher.publish("customers", block.customers.table)
            publisher.publish("merchants", block.merchants.table)
            publisher.publish("charges", block.charges.table)
            payments += publisher.publish("payments", block.payments)
            known, pending = split_labels([pending, block.labels], due)
            publisher.publish("labels", known)
            progress.update(task, completed=payments)
    return payments


def pending_labels(folder: Path) -> pa.Table:
    """Read the labels that were not yet known when the history in this folder ended."""
    path = folder / "pending_labels.parquet"
    return pq.read_table(path) if path.exists() else LABELS.schema.empty_table()


@app.command()
def main(
    to: Annotated[
        Target, typer.Option(help="Parquet files, or live traffic on the bus or Kafka.")
    ] = Target.FILES,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the history; live traffic continues the history in it. [default: <home>/generated]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed gives the same world.")] = 1,
    days: Annotated[float, typer.Option(min=0.01, help="Days of history.")] = 30.0,
    until: Annotated[datetime | None, typer.Option(help="End of the history, in UTC. [default: now]")] = None,
    accounts: Annotated[int, typer.Option(min=10, help="Number of accounts.")] = 5_000,
    merchants: Annotated[int, typer.Option(min=10, help="Number of merchants.")] = 500,
    payments: Annotated[int, typer.Option(min=1, help="Approximate number of payments.")] = 225_000,
    fraud_share: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of payments that are fraud.")
    ] = 0.008,
    rate: Annotated[float, typer.Option(min=0.1, help="Live traffic: payments per second.")] = 200.0,
    seconds: Annotated[
        float, typer.Option(min=0, help="Live traffic: length in seconds; 0 runs until interrupted.")
    ] = 60.0,
) -> None:
    """Generate a history of payments, or live traffic that continues it.

    A history is a folder: payments.parquet, charges.parquet (card charges of payments), customers.parquet and
    merchants.parquet (versions, in order of arrival), labels.parquet (labels known at the end),
    pending_labels.parquet (labels that become known later) and world.npz, from which live traffic continues.
    """
    settings = FlowSettings()
    folder = out or settings.home / "generated"
    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    start = end - timedelta(days=days)
    began = time.perf_counter()
    try:
        if to is not Target.FILES and (folder / "world.npz").exists():
            world = World.open(folder)
        else:
            world = World(
                seed,
                accounts=accounts,
                merchants=merchants,
                payments_a_day=payments_a_day(payments, epoch_us(start), epoch_us(end)),
                fraud_share=fraud_share,
            )
        if to is not Target.FILES:
            where = settings.redis_url if to is Target.BUS else settings.kafka_bootstrap_servers
            with contextlib.ExitStack() as stack:
                publisher: Publisher
                if to is Target.KAFKA:
                    publisher = TopicPublisher(settings)
                else:
                    client = stack.enter_context(redis.Redis.from_url(where))
                    publisher = BusPublisher(client, settings.bus_partitions)
                pending = pending_labels(folder)
                count = publish_live(publisher, world, pending, rate=rate, seconds=seconds or None)
        else:
            where = str(folder)
            count = write_history(world, start, end, folder, progress=True)
    except (MillstreamError, redis.RedisError) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    took = time.perf_counter() - began
    console.print(f"{count:,} payments to {where} in {took:.1f} s ({count / took:,.0f} per second)")
