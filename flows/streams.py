"""The streams of events the flows know: what identifies an event, which columns it has, where it lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from zlib import crc32

import pyarrow as pa

from feature_repo.enrichment.derived import LABEL_PROGRAM, PAYMENT_PROGRAM, Step
from feature_repo.enrichment.joins import CHARGE_JOINS, LABEL_JOINS, PAYMENT_JOINS, Join
from feature_repo.schemas.charge import CHARGE, CHARGE_LOG
from feature_repo.schemas.charge import REQUIRED as CHARGE_REQUIRED
from feature_repo.schemas.customer import CUSTOMER, CUSTOMER_LOG
from feature_repo.schemas.customer import PERSONAL as CUSTOMER_PERSONAL
from feature_repo.schemas.customer import REQUIRED as CUSTOMER_REQUIRED
from feature_repo.schemas.label import LABEL, LABEL_LOG
from feature_repo.schemas.label import PERSONAL as LABEL_PERSONAL
from feature_repo.schemas.label import REQUIRED as LABEL_REQUIRED
from feature_repo.schemas.merchant import MERCHANT, MERCHANT_LOG
from feature_repo.schemas.merchant import PERSONAL as MERCHANT_PERSONAL
from feature_repo.schemas.merchant import REQUIRED as MERCHANT_REQUIRED
from feature_repo.schemas.payment import LOG_COLUMNS, PAYMENT, PAYMENT_LOG
from feature_repo.schemas.payment import PERSONAL as PAYMENT_PERSONAL
from feature_repo.schemas.payment import REQUIRED as PAYMENT_REQUIRED
from flows.settings import FlowSettings


@dataclass(frozen=True, eq=False)
class EventStream:
    """A kind of event with a log of its own.

    `schema` is what a source hands in, `decoded` what a block carries from the decoder on, `log_schema` what is kept. Between the
    last two, steps may take columns away (personal ones) and add some: what other streams know (`joins`), what follows from the
    past of the same `derive_by` key (`program`).
    """

    name: str
    schema: pa.Schema
    log_schema: pa.Schema
    required: tuple[str, ...]
    id_column: str
    personal: Mapping[str, str] = field(default_factory=dict)
    """Privacy policy: what becomes of a column where an event comes in (`flows.accept.pseudonymise`)."""
    joins: tuple[Join, ...] = ()
    program: tuple[Step, ...] = ()
    derive_by: tuple[str, ...] = ()
    suite: Path | None = None
    """Its row checks; None: `feature_repo/expectations/<name>.json`."""
    partitioned: bool = False
    """Whether it has as many partitions on the bus as the settings say, or one."""

    @property
    def decoded(self) -> pa.Schema:
        """The stream's own columns, then those of the log."""
        return pa.schema([*self.schema, *LOG_COLUMNS])

    @property
    def is_changelog(self) -> bool:
        """Whether an event is a version of a row, which a later one replaces, or deletes (`flows.accept.changelog_rows`)."""
        return "deleted" in self.schema.names

    def bus_parts(self, settings: FlowSettings) -> list[str]:
        """Source partitions on the bus; `bus:payments:0` is the Redis stream `millstream:payments:0`."""
        count = settings.bus_partitions if self.partitioned else 1
        return [f"bus:{self.name}:{p}" for p in range(count)]

    def log_folder(self, settings: FlowSettings) -> Path:
        """Published files of the log."""
        return settings.log_dir / self.name

    def staging_folder(self, settings: FlowSettings) -> Path:
        """Files of the log that belong to an epoch not yet durable."""
        return settings.staging / self.name


PAYMENTS: Final = EventStream(
    "payments",
    PAYMENT,
    PAYMENT_LOG,
    PAYMENT_REQUIRED,
    "event_id",
    PAYMENT_PERSONAL,
    joins=PAYMENT_JOINS,
    program=PAYMENT_PROGRAM,
    derive_by=("account_id",),
    partitioned=True,
)
LABELS: Final = EventStream(
    "labels",
    LABEL,
    LABEL_LOG,
    LABEL_REQUIRED,
    "label_id",
    LABEL_PERSONAL,
    joins=LABEL_JOINS,
    program=LABEL_PROGRAM,
    derive_by=("payment_id",),
)
CUSTOMERS: Final = EventStream(
    "customers", CUSTOMER, CUSTOMER_LOG, CUSTOMER_REQUIRED, "event_id", CUSTOMER_PERSONAL
)
MERCHANTS: Final = EventStream(
    "merchants", MERCHANT, MERCHANT_LOG, MERCHANT_REQUIRED, "event_id", MERCHANT_PERSONAL
)
CHARGES: Final = EventStream("charges", CHARGE, CHARGE_LOG, CHARGE_REQUIRED, "event_id", joins=CHARGE_JOINS)
STREAMS: Final = {stream.name: stream for stream in (PAYMENTS, LABELS, CUSTOMERS, MERCHANTS, CHARGES)}
KEYS: Final = {
    "payments": "account_id",
    "customers": "account_id",
    "merchants": "merchant_id",
    "labels": "payment_id",
    "charges": "payment_id",
}
"""The column whose value is a Kafka record's key, by stream; records of one key keep their order."""


def partition_of(account_id: str, partitions: int) -> int:
    """Number of the partition that holds an account's payments, all of them, so that their order survives."""
    return crc32(account_id.encode()) % partitions
