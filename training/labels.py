"""One row per payment, at the instant it happened; its label as it was known at an instant of the reader's choice.

Two steps, because the parts of a time split know different things: `read_payments` gives the rows whose fraud has normally
been reported by the cut-off, `read_labels` the statements about them, and `as_known` joins the two at one instant per row.
A correction is a later statement and replaces the earlier one from the moment it became known, never before. A payment
nobody reported counts as honest: that is what the world looked like at that instant.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import DataError, LogError
from feature_repo.schemas.label import FRAUD_TYPES
from feature_repo.schemas.payment import PAYMENT, TIMESTAMP

_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open span of event time, `since <= t < until`, and the instant after which no label is known."""

    since: datetime
    until: datetime
    cutoff: datetime


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
            [_files(payments_log, "payments")],
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


def read_payments(payments_log: Path, window: Window, *, label_delay: timedelta) -> pa.Table:
    """Rows of the PAYMENT schema in event order; payments younger than the label delay at the cut-off are left out."""
    mature = min(window.until, window.cutoff - label_delay + _MICROSECOND)
    names = ", ".join(f'"{name}"' for name in PAYMENT.names)
    with _connect() as connection:
        rows = connection.sql(
            f"SELECT {names} FROM read_parquet(?) WHERE event_timestamp >= ? AND event_timestamp < ? "  # noqa: S608  names of our own schema
            "ORDER BY event_timestamp, event_id",
            params=[_files(payments_log, "payments"), window.since, mature],
        ).to_arrow_table()
    if not rows.num_rows:
        raise DataError(
            f"no payment between {window.since} and {mature}, when labels had matured",
            where=payments_log,
            todo="lengthen the window, move the cut-off, or shorten the label delay",
        )
    return rows.cast(PAYMENT)


def read_labels(labels_log: Path, *, cutoff: datetime) -> pa.Table:
    """Every statement known at the cut-off: payment_id, is_fraud, fraud_type, event_timestamp, label_id."""
    with _connect() as connection:
        return connection.sql(
            "SELECT payment_id, is_fraud, fraud_type, event_timestamp, label_id FROM read_parquet(?) "
            "WHERE event_timestamp <= ?",
            params=[_files(labels_log, "labels"), cutoff],
        ).to_arrow_table()


def as_known(rows: pa.Table, labels: pa.Table, *, known_at: npt.NDArray[np.int64]) -> Labels:
    """Label each row as of its own instant `known_at` (int64 UTC microseconds, one per row).

    Statements about one payment are ordered by (event_timestamp, label_id); the last one not after `known_at` holds.
    """
    asked = pa.table(
        {
            "place": pa.array(np.arange(rows.num_rows, dtype=np.int64)),
            "payment_id": rows["event_id"],
            "known_at": pa.array(known_at).cast(TIMESTAMP),
        }
    )
    with _connect() as connection:
        connection.register("asked", asked)
        connection.register("labels", labels)
        known = connection.sql(
            """
            SELECT place, is_fraud, fraud_type
            FROM asked JOIN labels USING (payment_id)
            WHERE labels.event_timestamp <= asked.known_at
            QUALIFY row_number() OVER (PARTITION BY place ORDER BY labels.event_timestamp DESC, label_id DESC) = 1
            """
        ).to_arrow_table()
    fraud = known.filter(known["is_fraud"])
    place = fraud["place"].to_numpy()
    target = np.zeros(rows.num_rows, np.uint8)
    target[place] = 1
    kinds = pa.array(FRAUD_TYPES, pa.string())
    kind = np.full(rows.num_rows, -1, np.int64)
    kind[place] = pc.fill_null(pc.index_in(fraud["fraud_type"], value_set=kinds), -1).to_numpy()
    return Labels(target, kinds.take(pa.array(kind, mask=kind < 0)))


def to_us(moment: datetime) -> int:
    """Epoch microseconds, exactly (a float of seconds would round)."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND


def _from_us(epoch: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=epoch)


def _connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return connection


def _files(folder: Path, what: str) -> str:
    if not any(folder.glob("*.parquet")):
        raise LogError(f"the {what} log is empty", where=folder, todo=f"run the {what} flow first")
    return (folder / "*.parquet").as_posix()
