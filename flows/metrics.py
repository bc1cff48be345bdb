"""Every metric of the flow processes, in one typed catalogue: `/metrics`, the docs and the dashboards read it.

>>> CATALOGUE["millstream_events_in_total"].labels
('partition',)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import Counter, Gauge, Histogram, start_http_server


@dataclass(frozen=True)
class Metric:
    """One metric: its name as scraped, what it counts, and its labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()


CATALOGUE: Final[dict[str, Metric]] = {}

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    CATALOGUE[name] = Metric(name, "counter", meaning, labels)
    return Counter(name.removesuffix("_total"), meaning, labels)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    CATALOGUE[name] = Metric(name, "gauge", meaning, labels)
    return Gauge(name, meaning, labels)


def _histogram(name: str, meaning: str, *labels: str) -> Histogram:
    CATALOGUE[name] = Metric(name, "histogram", meaning, labels)
    return Histogram(name, meaning, labels, buckets=_SECONDS)


EVENTS_IN: Final = _counter(
    "millstream_events_in_total",
    "Events read from a source; a replay after a crash counts again",
    "partition",
)
EVENTS_LOGGED: Final = _counter(
    "millstream_events_logged_total", "Events written to files of the event log", "stream"
)
DEAD_LETTERS: Final = _counter(
    "millstream_dead_letters_total", "Events not accepted, by reason", "stream", "reason"
)
EVENTS_LOST: Final = _counter(
    "millstream_events_lost_total",
    "Bus entries that vanished unread and were given up by an operator",
    "partition",
)
BUS_WENT_BACK: Final = _counter(
    "millstream_bus_went_back_total",
    "Bus entries that the flow had read and the server lost, for it went back in time",
    "partition",
)
BUS_ERRORS: Final = _counter("millstream_bus_errors_total", "Failed attempts to read the bus", "partition")
SOURCE_LAG: Final = _gauge(
    "millstream_source_lag_records", "Kafka only: records of a partition that are not read yet", "partition"
)
WATERMARK: Final = _gauge(
    "millstream_watermark_seconds", "Highest event time seen in a partition, as a Unix time", "partition"
)
FILES_PUBLISHED: Final = _counter(
    "millstream_files_published_total", "Files that became part of the log or of the dead letters", "stream"
)
EPOCH_WRITE: Final = _histogram(
    "millstream_epoch_write_seconds", "Time to sort, write and sync one epoch's file", "stream"
)
EVENTS_FOLDED: Final = _counter(
    "millstream_events_folded_total", "Events folded into window states", "entity"
)
KEYS_HELD: Final = _gauge("millstream_keys_held", "Keys with window state in a fold part", "entity", "shard")
STATES_WRITTEN: Final = _counter(
    "millstream_states_written_total", "Key states handed to the online store", "entity"
)
ONLINE_ERRORS: Final = _counter(
    "millstream_online_errors_total", "Failed attempts to write to the online store"
)
ONLINE_LOSSES: Final = _counter(
    "millstream_online_losses_total",
    "Times everything was written to the online store again, for it may have lost writes",
)
ONLINE_WRITE: Final = _histogram(
    "millstream_online_write_seconds", "Time to write one batch of states", "entity"
)
PLAIN_ROWS_WRITTEN: Final = _counter(
    "millstream_plain_rows_written_total", "Rows of plain feature views handed to the online store", "view"
)
PLAIN_WRITE: Final = _histogram(
    "millstream_plain_write_seconds", "Time to write one batch of rows of a plain feature view", "view"
)
FRESHNESS: Final = _histogram(
    "millstream_freshness_seconds",
    "From accepted by the bus to readable in the online store, oldest of a batch; of a plain view, its name",
    "entity",
)
CHECKPOINTS: Final = _counter(
    "millstream_checkpoints_total", "Checkpoint files written by fold parts", "entity"
)


def serve(host: str, port: int) -> None:
    """Serve `/metrics` there; port 0 does nothing."""
    if port:
        start_http_server(port, addr=host)
