"""Everything an operator can set about a flow, as one frozen object per process (`MILLSTREAM_...` variables).

Made once, at the edge of a process (`flows.payments`, `flows.run`, `flows.backfill_files`), and passed on from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr

from feature_repo.deprecated import renamed
from feature_repo.settings import RepoSettings


class FlowSettings(RepoSettings):
    """Settings of the dataflows; folders and addresses come from `RepoSettings`.

    >>> FlowSettings(source_files="/data/a.parquet:/data/b.parquet").files[1].name
    'b.parquet'
    """

    source_files: str = Field(
        default="",
        description="Read these files (separated like PATH) to their end instead of the bus: backfill is the same flow",
    )
    bus_partitions: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Number of `millstream:payments:{p}` streams; producers must agree. May grow, and not shrink",
    )
    bus_gap: Literal["stop", "accept"] = Field(
        default="stop",
        description="What to do when bus or Kafka no longer have events the flow has not read: stop, or accept the loss",
    )
    bus_retention: Literal["auto", "all", "unread"] = Field(
        default="auto",
        validation_alias=renamed("MILLSTREAM_BUS_RETENTION", "MILLSTREAM_BUS_KEEP"),
        description="Which entries stay on the bus. `all`: every entry. `unread`: the flow removes an entry once its event has been in "
        "the log or the dead letters, durably, for a minute. `auto`: `unread` with a key for pseudonyms, since the bus holds personal "
        "values in clear, else `all`",
    )
    format: Literal["json", "avro"] = Field(
        default="json",
        description="What live events are written in, of all streams; JSON-lines files stay JSON",
    )
    avro_schemas: Path | None = Field(
        default=None,
        description="Avro without a registry: folder with the schema events are written with, `<stream>.avsc`; "
        "not set, the schemas that `flows.accept.avro.avro_schema` makes of the columns",
    )
    schema_registry_url: str = Field(
        default="",
        validation_alias=AliasChoices("SCHEMA_REGISTRY_URL", "MILLSTREAM_SCHEMA_REGISTRY_URL"),
        description="Avro with a Confluent-compatible schema registry: its address; every event then begins with a schema's id",
    )
    schema_registry_auth: SecretStr | None = Field(
        default=None, description="`user:password` for the schema registry"
    )
    block_events: int = Field(
        default=16_384,
        ge=1,
        le=1_000_000,
        description="Most events in one block from the bus or a JSON-lines file",
    )
    file_block_events: int = Field(
        default=32_768, ge=1, le=1_000_000, description="Most events in one block from a Parquet file"
    )
    linger_ms: float = Field(
        default=5.0,
        ge=0.5,
        le=1000,
        description="How long events wait on the bus for company before they are read",
    )
    epoch_ms: int = Field(
        default=1000,
        ge=50,
        le=60_000,
        description="Length of an epoch: what a crash replays (whole seconds under python -m bytewax.run)",
    )
    epoch_events: int = Field(
        default=250_000,
        ge=1,
        description="Most events one source partition emits in an epoch; bounds the memory of one file of the log",
    )
    allowed_lateness_seconds: float = Field(
        default=600.0,
        ge=0,
        validation_alias=renamed("MILLSTREAM_ALLOWED_LATENESS_SECONDS", "MILLSTREAM_LATENESS_SECONDS"),
        description="An event further than this behind its partition's watermark is a dead letter `late`",
    )
    max_future_skew_seconds: float = Field(
        default=300.0,
        ge=0,
        validation_alias=renamed("MILLSTREAM_MAX_FUTURE_SKEW_SECONDS", "MILLSTREAM_AHEAD_SECONDS"),
        description="An event further than this ahead of its accept time is a dead letter `future` (bus only)",
    )
    dead_letter_limit: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Stop when more than this share of the latest MILLSTREAM_DEAD_LETTER_WINDOW events became dead letters; "
        "1 never stops, and forgets an earlier stop",
    )
    dead_letter_window: int = Field(
        default=10_000, ge=1, description="Of how many events the dead-letter limit is a share"
    )
    recovery_mode: Literal["on", "off"] = Field(
        default="on",
        validation_alias="MILLSTREAM_RECOVERY",
        description="`off` remembers nothing: for a throw-away home only, the log refuses a second start",
    )
    recovery_partitions: int = Field(
        default=2,
        ge=1,
        description="Recovery partitions of a new store, each synced to disk once an epoch; not fewer than workers",
    )
    key_shards: int = Field(
        default=4,
        ge=1,
        le=99,
        description="Fold parts per entity, keyed 00, 01, ...; the most workers that help. More at a later start fold the log anew; "
        "fewer are refused",
    )
    checkpoint_seconds: float = Field(
        default=30.0, gt=0, description="How often a fold part writes its states to a checkpoint file"
    )
    checkpoint_events: int = Field(
        default=1_000_000,
        ge=1,
        description="A checkpoint is also written after so many events of a fold part",
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65_535, description="Serve Prometheus metrics at this port; 0 does not"
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        description="Address the metrics are served at; `0.0.0.0` in a container, whose network decides who reaches it",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto",
        description="Form of the process's own log lines; auto is text on a terminal, else JSON",
    )

    @staticmethod
    def join_files(paths: Iterable[Path]) -> str:
        """Paths as one value of `source_files`."""
        return os.pathsep.join(str(path) for path in paths)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to read instead of the bus, if any."""
        return tuple(Path(part).resolve() for part in self.source_files.split(os.pathsep) if part)

    @property
    def epoch_interval(self) -> timedelta:
        """Length of an epoch."""
        return timedelta(milliseconds=self.epoch_ms)

    @property
    def allowed_lateness_us(self) -> int:
        """Allowed lateness in microseconds."""
        return round(self.allowed_lateness_seconds * 1_000_000)

    @property
    def max_future_skew_us(self) -> int:
        """Allowed distance of an event time after its accept time, in microseconds."""
        return round(self.max_future_skew_seconds * 1_000_000)
