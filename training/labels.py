"""Read the payments of a window, and their labels as known at a given time.

There are two steps, because the parts of a time split have different label times: `read_payments` returns the
payments that are old enough to be labelled at the cutoff, and `as_known` reads their labels, each as of its own time.
A correction replaces the earlier label from the time it became known, not before. A payment without a label counts as
honest, because that is what was known at that time.
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
    """Half-open interval of event time, `since <= t < until`; labels that became known after `cutoff` are not used."""

    since: datetime
    until: datetime
    cutoff: datetime


class LabelSource(Protocol):
    """A source of labels."""

    def labels(self, payments: pa.ChunkedArray, known_at: pa.Array) -> pa.Table:
        """Return columns is_fraud and fraud_type, one row per payment id in the order given.

        Null: no label by `known_at`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of payments, in their order: `target` is uint8[rows], 1 = fraud."""

    target: npt.NDArray[np.uint8]
    fraud_type: pa.Array
    """`FRAUD_TYPES`, null for honest payments and for frauds of unknown kind."""

    @property
    def frauds(self) -> int:
        """Number of payments labelled as fraud."""
        return int(self.target.sum())


def read_window(
    payments_log: Path, *, since: datetime | None, until: datetime | None, cutoff: datetime | None
) -> Window:
    """Return the window; None means the first and last event of the log, and the last event as cutoff.

    Raises `LogError` for an empty log, `DataError` for an empty window.
    """
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
            todo=f"choose a window that overlaps {start} to {end}",
        )
    return window


def read_payments(
    payments_log: Path, window: Window, *, label_delay: timedelta, also: Sequence[str] = ()
) -> pa.Table:
    """Rows of the PAYMENT schema in event order, then the columns of `also`, null where the log does not have them.

    Payments more recent than the label delay at the cutoff are left out. Raises `DataError` if none are left.
    """
    labelled_until = min(window.until, window.cutoff - label_delay + _MICROSECOND)
    files = log_files(payments_log, "payments")
    with _connect() as connection:
        log = "FROM read_parquet(?, union_by_name = true)"
        there = set(connection.sql(f"SELECT * {log}", params=[files]).columns)
        wanted = [f'"{name}"' for name in PAYMENTS.schema.names]
        wanted += [f'"{name}"' if name in there else f'NULL AS "{name}"' for name in also]
        rows = connection.sql(
            f"SELECT {', '.join(wanted)} {log} WHERE event_timestamp >= ? AND event_timestamp < ? "
            "ORDER BY event_timestamp, event_id",
            params=[files, window.since, labelled_until],
        ).to_arrow_table()
    if not rows.num_rows:
        raise DataError(
            f"no payment between {window.since} and {labelled_until}, old enough to be labelled",
            where=payments_log,
            todo="choose a longer window, a later cutoff, or a shorter label delay",
        )
    made = rows.select(PAYMENTS.schema.names).cast(PAYMENTS.schema)
    for name in also:
        made = made.append_column(name, rows[name])
    return made


def as_known(source: LabelSource, rows: pa.Table, *, known_at: npt.NDArray[np.int64]) -> Labels:
    """Return the label of each row as of its own time `known_at` (int64[rows], us)."""
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
    """Return epoch microseconds, without the rounding of a float."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND


def _from_us(epoch: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=epoch)


def _connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return connection


def log_files(folder: Path, what: str) -> list[str]:
    """Return the files of a stream's log. Raises `LogError` if there are none, or if one is damaged."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise LogError(f"the {what} log is empty", where=folder, todo=f"run the {what} flow first")
    checksums.check(files)
    return [path.as_posix() for path in files]
