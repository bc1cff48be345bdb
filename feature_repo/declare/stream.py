"""The words a stream is declared with (`feature_repo/streams`): columns, row checks, joins, derived columns.

Everything that handles a stream reads its declaration: the Feast sources, the log, the bus and Kafka topics, the
flow, `flows.backfill_files`, `flows.bring`, erasure, dead letters, `make up` and the reference page. No Feast is
imported here, because flows and the scorer start without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pyarrow as pa

from feature_repo.enrichment.derived import Derived, Step
from feature_repo.enrichment.joins import AsOfJoin, IdJoin, Join
from feature_repo.errors import DefinitionError
from feature_repo.privacy.policy import DROP, PARTY, PSEUDONYM
from feature_repo.settings import RepoSettings

__all__ = [
    "DROP",
    "KEY_LENGTH",
    "LOG_COLUMNS",
    "PARTY",
    "PSEUDONYM",
    "TIMESTAMP",
    "AsOfJoin",
    "Check",
    "Column",
    "Derived",
    "EventStream",
    "IdJoin",
    "between",
    "boolean",
    "integer",
    "length",
    "matches",
    "number",
    "one_of",
    "text",
    "time",
]

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
EVENT_TIMESTAMP: Final = "event_timestamp"
"""The column of every stream that holds the event time."""
DELETED: Final = "deleted"
"""The column of a changelog that is true in the row that deletes its key."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_NO_COLUMNS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True)
class Check:
    """One rule that every value of a column must obey, as a Great Expectations expectation; a null obeys every rule."""

    kind: str
    """Type of the expectation, such as `expect_column_values_to_be_between`."""
    arguments: Mapping[str, Any]
    """Its arguments but for the column."""
    why: str = ""


def length(least: int, most: int, why: str = "") -> Check:
    """A text has `least` to `most` characters."""
    return Check("expect_column_value_lengths_to_be_between", {"min_value": least, "max_value": most}, why)


def between(least: float, most: float, why: str = "") -> Check:
    """A number is at least `least` and at most `most`; NaN counts as null, infinity is out of range."""
    return Check("expect_column_values_to_be_between", {"min_value": least, "max_value": most}, why)


def one_of(values: Sequence[str], why: str = "") -> Check:
    """A text is one of these."""
    return Check("expect_column_values_to_be_in_set", {"value_set": list(values)}, why)


def matches(regex: str, why: str = "") -> Check:
    """A text matches a regular expression (RE2). A final `$` also accepts one newline, so add a `length`."""
    return Check("expect_column_values_to_match_regex", {"regex": regex}, why)


KEY_LENGTH: Final = length(
    1, 128, "a key must not be empty, and a hostile one must not fill the online store"
)
"""The check of ids and keys."""


@dataclass(frozen=True)
class Column:
    """One column of a stream. Make it with `text`, `number`, `integer`, `boolean` or `time`."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    null: str = ""
    """What null means; empty: the column is never null, and an event without it becomes a dead letter."""
    personal: str = ""
    """Privacy policy: "" (keep), `DROP`, `PSEUDONYM`, or `PARTY` for the id of an account or merchant."""
    checks: tuple[Check, ...] = ()

    @property
    def required(self) -> bool:
        """Whether it is never null."""
        return not self.null

    @property
    def field(self) -> pa.Field:
        """The Arrow field, with its documentation as metadata (meaning, unit, null).

        Every Arrow field is physically nullable, also that of a required column. Arrow counts the flag as part of a
        type, so a column that a compute function returned would no longer match its own schema; and a row that lacks
        a required value must reach the check that makes it a dead letter.
        """
        metadata = {"meaning": self.meaning, "unit": self.unit, "null": self.null or "never"}
        return pa.field(self.name, self.type, metadata=metadata)


def text(
    name: str,
    meaning: str,
    *,
    unit: str = "",
    null: str = "",
    personal: str = "",
    checks: Iterable[Check] = (),
) -> Column:
    """Declare a column of UTF-8 text."""
    return Column(name, pa.string(), meaning, unit, null, personal, tuple(checks))


def number(
    name: str,
    meaning: str,
    *,
    unit: str = "",
    null: str = "",
    personal: str = "",
    checks: Iterable[Check] = (),
) -> Column:
    """Declare a column of float64; of personal treatments it takes `DROP` only."""
    return Column(name, pa.float64(), meaning, unit, null, personal, tuple(checks))


def integer(
    name: str,
    meaning: str,
    *,
    unit: str = "",
    null: str = "",
    personal: str = "",
    checks: Iterable[Check] = (),
) -> Column:
    """Declare a column of int64; of personal treatments it takes `DROP` only."""
    return Column(name, pa.int64(), meaning, unit, null, personal, tuple(checks))


def boolean(name: str, meaning: str, *, null: str = "", personal: str = "") -> Column:
    """Declare a column of true and false."""
    return Column(name, pa.bool_(), meaning, null=null, personal=personal)


def time(name: str, meaning: str, *, null: str = "", personal: str = "") -> Column:
    """Declare a column of instants, microseconds since 1970 in UTC."""
    return Column(name, TIMESTAMP, meaning, "us since 1970-01-01 UTC", null, personal)


CREATED_TIMESTAMP: Final = time(
    "created_timestamp",
    "When the event was accepted: by the bus, or as its file states; the same again after a replay",
)
LOG_COLUMNS: Final = (
    CREATED_TIMESTAMP,
    text("source_partition", "Where the event came in, such as bus:payments:0 or file:history.parquet"),
    integer(
        "source_offset",
        "Place in that partition, strictly increasing: (ms << 20) | seq on the bus, row number in a file",
    ),
)
"""What the log adds to every event, after the event's own columns."""


@dataclass(frozen=True, eq=False)
class EventStream:
    """A kind of event, declared whole: its log, flow, dead letters, Feast sources, bus and topic follow from it.

    A producer writes `columns`. The log keeps those that the privacy policy does not drop, then `joined`, `derived` and
    `LOG_COLUMNS`. The order of columns is the order in the log; new ones go to the end of `columns`.
    Raises `DefinitionError` for a declaration that contradicts itself.
    """

    name: str
    """The name of its file, in the plural: log folder, bus `millstream:<name>:0`, topic `millstream.<name>`."""
    columns: tuple[Column, ...]
    partition_by: str
    """The column whose events stay in order: it chooses the partition on the bus and is the key of a Kafka record."""
    grain: str
    """What one row is, such as "one row per payment"."""
    id_column: str = "event_id"
    """Identity of an event, unique in its stream; a repeated id is a duplicate."""
    partitioned: bool = False
    """Whether it has as many partitions on the bus as `MILLSTREAM_BUS_PARTITIONS` says, or one."""
    changelog: bool = False
    """Whether an event is a version of the row that `partition_by` names. Adds the column `deleted`."""
    joins: tuple[Join, ...] = ()
    """Columns of other streams that an event is given before it is logged."""
    joined: tuple[Column, ...] = ()
    """Which of them the log keeps, beyond the event's own columns."""
    program: tuple[Step, ...] = ()
    """How derived columns are computed, in order."""
    derived: tuple[Column, ...] = ()
    """The columns that `program` computes and the log keeps."""
    derive_by: tuple[str, ...] = ()
    """Key of the past that the windows of `program` look at."""
    feature_names: Mapping[str, str] = field(default_factory=lambda: _NO_COLUMNS)
    """Names under which Feast views see columns of the log, where they differ (`field_mapping` of the Feast source)."""
    labels: str = ""
    """The stream whose events this one labels; a `label` section in a mapping of that stream fills it."""

    def __post_init__(self) -> None:
        if self.changelog and DELETED not in {c.name for c in self.columns}:
            columns = list(self.columns)
            first_optional = sum(c.required for c in columns)
            columns.insert(
                first_optional,
                boolean(
                    DELETED,
                    "True: the row is deleted, all columns but id, time and key are null",
                    null="false",
                ),
            )
            object.__setattr__(self, "columns", tuple(columns))
        self._validate()

    @cached_property
    def schema(self) -> pa.Schema:
        """What a producer writes."""
        return pa.schema([c.field for c in self.columns])

    @cached_property
    def decoded(self) -> pa.Schema:
        """What a block holds once it is decoded: the stream's own columns, then those of the log."""
        return pa.schema([c.field for c in (*self.columns, *LOG_COLUMNS)])

    @cached_property
    def log_schema(self) -> pa.Schema:
        """What the log keeps."""
        own = [c for c in self.columns if c.personal != DROP]
        return pa.schema([c.field for c in (*own, *self.joined, *self.derived, *LOG_COLUMNS)])

    @cached_property
    def required(self) -> tuple[str, ...]:
        """Columns that are never null in an accepted event."""
        return tuple(c.name for c in self.columns if c.required)

    @cached_property
    def personal(self) -> Mapping[str, str]:
        """Privacy policy: what becomes of a column where an event comes in (`feature_repo.privacy.apply`)."""
        return MappingProxyType({c.name: c.personal for c in self.columns if c.personal})

    @cached_property
    def parties(self) -> tuple[str, ...]:
        """Columns of the log that hold pseudonyms of accounts and merchants; an erasure looks for an account there."""
        return tuple(c.name for c in (*self.columns, *self.joined) if c.personal == PARTY)

    @cached_property
    def refers_to(self) -> Mapping[str, str]:
        """Columns that hold the id of another stream's event, and that stream."""
        return MappingProxyType({j.key: j.stream for j in self.joins if isinstance(j, IdJoin)})

    @cached_property
    def suite(self) -> dict[str, Any]:
        """The row checks as a Great Expectations 1.x suite, in the form of its JSON.

        First that required columns are not null, then the checks of required columns, then those of the others.
        """
        ordered = sorted(self.columns, key=lambda c: not c.required)
        checks = [(c, Check("expect_column_values_to_not_be_null", {})) for c in ordered if c.required]
        checks += [(c, check) for c in ordered for check in c.checks]
        return {
            "name": self.name,
            "expectations": [
                {
                    "type": check.kind,
                    "kwargs": {"column": column.name, **check.arguments},
                    "meta": {"why": check.why} if check.why else {},
                }
                for column, check in checks
            ],
            "meta": {"grain": self.grain},
            "notes": None,
        }

    def bus_parts(self, partitions: int) -> list[str]:
        """Source partitions on the bus; `bus:payments:0` is the Redis stream `millstream:payments:0`.

        `partitions` is the setting `MILLSTREAM_BUS_PARTITIONS`.
        """
        return [f"bus:{self.name}:{p}" for p in range(partitions if self.partitioned else 1)]

    def log_folder(self, settings: RepoSettings) -> Path:
        """Folder of the published files of the log."""
        return settings.log_dir / self.name

    def staging_folder(self, settings: RepoSettings) -> Path:
        """Folder of files of the log whose epoch is not durable yet."""
        return settings.staging / self.name

    def _validate(self) -> None:
        own = {c.name: c for c in self.columns}
        logged = [*self.columns, *self.joined, *self.derived, *LOG_COLUMNS]
        names = [c.name for c in logged]
        twice = sorted({n for n in names if names.count(n) > 1})
        keyed = (self.id_column, self.partition_by)
        if not _NAME.fullmatch(self.name):
            self._refuse(
                f"{self.name!r} is not a name", "use lower-case letters, digits and _, a letter first"
            )
        if twice:
            self._refuse(f"{', '.join(twice)} is declared twice", "give every column a name of its own")
        if EVENT_TIMESTAMP not in own or own[EVENT_TIMESTAMP].type != TIMESTAMP:
            self._refuse(f"it has no time {EVENT_TIMESTAMP}", f'declare time("{EVENT_TIMESTAMP}", ...)')
        for name in (*keyed, EVENT_TIMESTAMP):
            if name not in own or own[name].personal == DROP:
                self._refuse(f"{name} is not a column that is kept", "declare it, and do not drop it")
        for name in {self.id_column, EVENT_TIMESTAMP}:
            if own[name].null:
                self._refuse(f"{name} may be null", "leave out null=")
        for name in keyed:
            if own[name].type != pa.string():
                self._refuse(f"{name} is {own[name].type}", f'declare text("{name}", ...)')
        for column in self.columns:
            if column.personal not in {"", DROP, PSEUDONYM, PARTY}:
                self._refuse(
                    f"personal={column.personal!r} of {column.name} is unknown",
                    "use DROP, PSEUDONYM or PARTY",
                )
            if column.personal in {PSEUDONYM, PARTY} and column.type != pa.string():
                self._refuse(
                    f"{column.name} is {column.type} and cannot have a pseudonym",
                    "DROP it, or make it a text",
                )
        for join in self.joins:
            if join.key not in own:
                self._refuse(f"the join with {join.stream} needs the column {join.key}", "declare it")

    def _refuse(self, what: str, todo: str) -> None:
        raise DefinitionError(what, where=f"stream {self.name}", todo=todo)
