"""One row per payment, at the instant it happened; its label as it was known at an instant of the reader's choice.

Two steps, because the parts of a time split know different things: `read_payments` gives the rows whose fraud has normally
been reported by the cut-off, and `as_known` asks the label view about them, at one instant per row.
A correction is a later statement and replaces the earlier one from the moment it became known, never before. A payment
nobody reported counts as honest: that is what the world looked like at that instant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.declare.stream import TIMESTAMP
from feature_repo.errors import DataError, LogError
from feature_repo.stores.event_log import checksums
from feature_repo.streams.labels import FRAUD_TYPES
from feature_repo.streams.payments import PAYMENTS

_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open span of event time, `since <= t < until`, and the instant after which no label is known."""

    since: datetime
    until: datetime
    cutoff: datetime


class LabelSource(Protocol):
    """Where labels come from."""

    def labels(self, payments: pa.ChunkedArray, known_at: pa.Array) -> pa.Table:
        """Columns is_fraud and fraud_type, one row per payment id in the order given; null: nothing was said by `known_at`."""
        ...


@dataclass(frozen=True, slots=True)
class Labels:
    """One entry per payment, aligned with the rows asked for: the latest statement known by then."""

    target: npt.NDArray[np.uint8]
    fraud_type: pa.Array
    """`FRAUD_TYPES`, null for honest payments and for frauds of unknown kind."""

    @property
    def frauds(self) -> int:
        """How many payments are known to be fraud."""
        return int(self.target.sum())


def read_window(
    payments_log: Path, *, since: datetime | None, until: datetime | None, cutoff: datetime | None
) -> Window:
    """Fill in what the caller leaves open: the log's first and last event; the cut-off is the last event."""
    with _connect() as connection:
        first, last, rows = connection.execute(
            "SELECT epoch_us(min(event_timestamp)), epoch_us(max(event_timestamp)), count(*) FROM read_parquet(?)",
            [log_files(payments_log, "payments")],
        ).fetchone() or (None, None, 0)
    if not rows:
        raise LogError("the payments log has no rows", where=payments_log, todo="run the payments flow first")
    start, end = _from_us(first), _from_us(last)
    window = Window(
        since=since or start,
        until=min(until or end + _MICROSECOND, end + _MICROSECOND),
        cutoff=cutoff or end,
    )
    if window.since >= window.until:
        raise DataError(
            f"no payment between {window.since} and {window.until}",
            where=payments_log,
            todo=f"choose a window that meets {start} to {end}",
        )
    return window


def read_payments(
    payments_log: Path, window: Window, *, label_delay: timedelta, also: Sequence[str] = ()
) -> pa.Table:
    """Rows of the PAYMENT schema in event order, then the columns of `also`, null where the log does not have them.

    Payments younger than the label delay at the cut-off are left out.
    """
    mature = min(window.until, window.cutoff - label_delay + _MICROSECOND)
    files = log_files(payments_log, "payments")
    with _connect() as connection:
        log = "FROM read_parquet(?, union_by_name = true)"
        there = set(connection.sql(f"SELECT * {log}", params=[files]).columns)
        wanted = [f'"{name}"' for name in PAYMENTS.schema.names]
        wanted += [f'"{name}"' if name in there else f'NULL AS "{name}"' for name in also]
        rows = connection.sql(
            f"SELECT {', '.join(wanted)} {log} WHERE event_timestamp >= ? AND event_timestamp < ? "
            "ORDER BY event_timestamp, event_id",
            params=[files, window.since, mature],
        ).to_arrow_table()
    if not rows.num_rows:
        raise DataError(
            f"no payment between {window.since} and {mature}, when labels had matured",
            where=payments_log,
            todo="lengthen the window, move the cut-off, or shorten the label delay",
        )
    made = rows.select(PAYMENTS.schema.names).cast(PAYMENTS.schema)
    for name in also:
        made = made.append_column(name, rows[name])
    return made


def as_known(source: LabelSource, rows: pa.Table, *, known_at: npt.NDArray[np.int64]) -> Labels:
    """Label each row as of its own instant `known_at` (int64 UTC microseconds, one per row)."""
    said = source.labels(rows["event_id"], pa.array(known_at).cast(TIMESTAMP))
    if said.num_rows != rows.num_rows:
        raise DataError(
            f"{rows.num_rows} payments in, {said.num_rows} labels out",
            where="the label view",
            todo="look for a store that drops or repeats rows",
        )
    fraud = pc.fill_null(said["is_fraud"], fill_value=False).to_numpy().astype(bool)
    kinds = pa.array(FRAUD_TYPES, pa.string())
    kind = pc.fill_null(pc.index_in(said["fraud_type"], value_set=kinds), -1).to_numpy()
    kind = np.where(fraud, kind, -1)
    return Labels(fraud.astype(np.uint8), kinds.take(pa.array(kind, mask=kind < 0)))


def to_us(moment: datetime) -> int:
    """Epoch microseconds, exactly (a float of seconds would round)."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND


def _from_us(epoch: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=epoch)


def _connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return connection


def log_files(folder: Path, what: str) -> list[str]:
    """The files of a stream's log. Raises `LogError` when there is nothing in it, or one is damaged."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise LogError(f"the {what} log is empty", where=folder, todo=f"run the {what} flow first")
    checksums.check(files)
    return [path.as_posix() for path in files]
