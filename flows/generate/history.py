"""Generate a history in memory: events, the labels known at its end, and the world, which can be continued."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.declare.stream import TIMESTAMP
from flows.generate.world import Events, World, payments_a_day

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class History(NamedTuple):
    """A generated history. Payments and labels are sorted by event_timestamp.

    `pending` labels become known after its end.

    Customers, merchants and charges are in order of arrival; the first rows are one version of each customer and
    merchant.
    """

    payments: pa.Table
    labels: pa.Table
    pending: pa.Table
    customers: pa.Table
    merchants: pa.Table
    charges: pa.Table
    world: World


def generate(
    seed: int = 1,
    start: datetime = datetime(2025, 1, 1, tzinfo=UTC),
    days: float = 30.0,
    *,
    accounts: int = 5_000,
    merchants: int = 500,
    payments: int = 225_000,
    fraud_share: float = 0.008,
) -> History:
    """Generate about `payments` payments (within a few percent) of `days` days from `start` on.

    >>> history = generate(7, days=2, accounts=50, merchants=20, payments=1_000)
    >>> history.payments.schema.names[:4]
    ['event_id', 'event_timestamp', 'account_id', 'merchant_id']
    """
    end = start + timedelta(days=days)
    world = World(
        seed,
        accounts=accounts,
        merchants=merchants,
        payments_a_day=payments_a_day(payments, epoch_us(start), epoch_us(end)),
        fraud_share=fraud_share,
    )
    events = list(world.payments(epoch_us(start), epoch_us(end)))
    labels, pending = split_labels([part.labels for part in events], end)
    return History(
        pa.concat_tables(part.payments for part in events),
        labels,
        pending,
        pa.concat_tables(part.customers.table for part in events),
        pa.concat_tables(part.merchants.table for part in events),
        pa.concat_tables(part.charges.table for part in events),
        world,
    )


def live(
    world: World,
    start: datetime,
    *,
    rate: float,
    seconds: float | None = None,
    block_seconds: float = 0.1,
) -> Iterator[Events]:
    """Yield live traffic of a world from `start` on; see `World.live`."""
    return world.live(epoch_us(start), rate=rate, seconds=seconds, block_seconds=block_seconds)


def split_labels(parts: list[pa.Table], known_by: datetime) -> tuple[pa.Table, pa.Table]:
    """Return the labels known by a time, sorted by the time they became known, and the other labels."""
    labels = pa.concat_tables(parts).sort_by([("event_timestamp", "ascending"), ("label_id", "ascending")])
    known = pc.less(labels["event_timestamp"], pa.scalar(known_by, TIMESTAMP))
    return labels.filter(known), labels.filter(pc.invert(known))


def epoch_us(instant: datetime) -> int:
    """Return microseconds since 1970-01-01 UTC."""
    return (instant - _EPOCH) // timedelta(microseconds=1)
