"""Every metric of the flow processes, in one typed catalogue: `/metrics`, the docs and the dashboards read it.

>>> CATALOGUE["millstream_events_in_total"].labels
('partition',)
"""

from __future__ import annotations

from typing import Final

from prometheus_client import start_http_server

from feature_repo.metrics import Catalogue

CATALOGUE: Final = Catalogue()

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


EVENTS_IN: Final = CATALOGUE.counter(
    "millstream_events_in_total",
    "Events read from a source; a replay after a crash counts again",
    "partition",
)
EVENTS_LOGGED: Final = CATALOGUE.counter(
    "millstream_events_logged_total", "Events written to files of the event log", "stream"
)
DEAD_LETTERS: Final = CATALOGUE.counter(
    "millstream_dead_letters_total", "Events not accepted, by reason", "stream", "reason"
)
EVENTS_LOST: Final = CATALOGUE.counter(
    "millstream_events_lost_total",
    "Bus entries that vanished unread and were given up by an operator",
    "partition",
)
BUS_ROLLED_BACK: Final = CATALOGUE.counter(
    "millstream_bus_rolled_back_total",
    "Bus entries the flow had read that the server lost when it returned to an older copy of its data",
    "partition",
    deprecated_name="millstream_bus_went_back_total",
)
BUS_ERRORS: Final = CATALOGUE.counter(
    "millstream_bus_errors_total", "Failed attempts to read the bus", "partition"
)
SOURCE_LAG: Final = CATALOGUE.gauge(
    "millstream_source_lag_records", "Kafka only: records of a partition that are not read yet", "partition"
)
WATERMARK: Final = CATALOGUE.gauge(
    "millstream_watermark_timestamp_seconds",
    "Highest event time seen in a partition, as a Unix time",
    "partition",
    deprecated_name="millstream_watermark_seconds",
)
FILES_PUBLISHED: Final = CATALOGUE.counter(
    "millstream_files_published_total", "Files that became part of the log or of the dead letters", "stream"
)
EPOCH_WRITE: Final = CATALOGUE.histogram(
    "millstream_epoch_write_seconds",
    "Time to sort, write and sync one epoch's file",
    "stream",
    buckets=_SECONDS,
)
EVENTS_FOLDED: Final = CATALOGUE.counter(
    "millstream_events_folded_total", "Events folded into window states", "entity"
)
KEYS_HELD: Final = CATALOGUE.gauge(
    "millstream_keys_held", "Keys with window state in a fold part", "entity", "shard"
)
STATES_WRITTEN: Final = CATALOGUE.counter(
    "millstream_states_written_total", "Key states handed to the online store", "entity"
)
ONLINE_ERRORS: Final = CATALOGUE.counter(
    "millstream_online_errors_total", "Failed attempts to write to the online store"
)
ONLINE_LOSSES: Final = CATALOGUE.counter(
    "millstream_online_losses_total",
    "Times everything was written to the online store again, for it may have lost writes",
)
ONLINE_WRITE: Final = CATALOGUE.histogram(
    "millstream_online_write_seconds", "Time to write one batch of states", "entity", buckets=_SECONDS
)
PLAIN_ROWS_WRITTEN: Final = CATALOGUE.counter(
    "millstream_plain_rows_written_total", "Rows of plain feature views handed to the online store", "view"
)
PLAIN_WRITE: Final = CATALOGUE.histogram(
    "millstream_plain_write_seconds",
    "Time to write one batch of rows of a plain feature view",
    "view",
    buckets=_SECONDS,
)
FRESHNESS: Final = CATALOGUE.histogram(
    "millstream_freshness_seconds",
    "From accepted by the bus to readable in the online store, oldest of a batch; of a plain view, its name",
    "entity",
    buckets=_SECONDS,
)
CHECKPOINTS: Final = CATALOGUE.counter(
    "millstream_checkpoints_total", "Checkpoint files written by fold parts", "entity"
)


def serve(host: str, port: int) -> None:
    """Serve `/metrics` there; port 0 does nothing."""
    if port:
        start_http_server(port, addr=host)
