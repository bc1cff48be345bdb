"""What a mapping file may say: for each column of a stream, where its values come from.

A mapping is data, never code: a column, a constant or a template, then a few fixed conversions.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Final, Literal, Self, get_args
from zoneinfo import ZoneInfo

import pyarrow as pa
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from feature_repo.errors import MappingError
from flows.streams import STREAMS, EventStream

SHIPPED: Final = Path(__file__).resolve().parent / "mappings"
ROW: Final = "row"
"""Name of the row number (from 0) in templates; a template cannot name a column of that name."""

Unit = Literal["us", "ms", "s", "minutes", "hours", "days"]
UNIT_US: Final[dict[Unit, int]] = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "minutes": 60_000_000,
    "hours": 3_600_000_000,
    "days": 86_400_000_000,
}


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError) as error:
        msg = f"unknown time zone {name!r}; use a name such as UTC or Europe/Paris"
        raise ValueError(msg) from error
    return name


def _span(value: Any) -> Any:
    """Read a duration as people write it: 36h, 2d, 90min, 30s."""
    if isinstance(value, str):
        number = value.rstrip("abcdefghijklmnopqrstuvwxyz ")
        unit = value[len(number) :].strip()
        units = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}
        try:
            return timedelta(**{units[unit]: float(number)})
        except (KeyError, ValueError) as error:
            msg = f"cannot read the duration {value!r}; write for example 36h, 2d, 90min or 30s"
            raise ValueError(msg) from error
    return value


def _text_keys(value: Any) -> Any:
    """Turn keys and values into text: YAML reads 1 and true as other types, and values are compared as text."""
    if isinstance(value, dict):
        return {_plain(key): None if item is None else _plain(item) for key, item in value.items()}
    return value


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Span = Annotated[timedelta, BeforeValidator(_span), Field(ge=timedelta(0))]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(_Part):
    """A text, number or truth value: exactly one of column, constant, template; then values, divide, prefix."""

    column: str | None = None
    constant: str | float | None = None
    template: str | None = None
    values: Annotated[dict[str, str | None] | None, BeforeValidator(_text_keys)] = None
    otherwise: str | None = None
    divide: float | None = Field(default=None, gt=0)
    prefix: str | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [name for name in ("column", "constant", "template") if getattr(self, name) is not None]
        if len(given) != 1:
            msg = f"exactly one of column, constant, template must be given, not {given or 'none'}"
            raise ValueError(msg)
        if self.otherwise is not None and self.values is None:
            msg = "otherwise needs values"
            raise ValueError(msg)
        for name in self.template_fields:
            if not name or not name.replace(" ", "_").isidentifier():
                msg = f"template {self.template!r}: {{{name}}} is not a plain column name"
                raise ValueError(msg)
        return self

    @property
    def template_fields(self) -> list[str]:
        """The columns a template names, the row number included."""
        if self.template is None:
            return []
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError as error:
            msg = f"template {self.template!r}: {error}"
            raise ValueError(msg) from error
        if any(spec or conversion for _, _, spec, conversion in parts):
            msg = f"template {self.template!r}: only plain {{column}} is allowed"
            raise ValueError(msg)
        return [name for _, name, _, _ in parts if name is not None]

    @property
    def columns(self) -> set[str]:
        """The columns of the file it needs."""
        return ({self.column} if self.column else set()) | (set(self.template_fields) - {ROW})


class Time(_Part):
    """An instant: a timestamp column, text (ISO 8601 or `format`), or a number of `unit`s since `start`."""

    column: str
    format: str | None = None
    unit: Unit | None = None
    start: Annotated[datetime, AfterValidator(_utc)] = datetime(1970, 1, 1, tzinfo=UTC)
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    spread: bool = False

    @model_validator(mode="after")
    def _units(self) -> Self:
        if self.unit and self.format:
            msg = "give unit (a number) or format (text), not both"
            raise ValueError(msg)
        if self.spread and not self.unit:
            msg = "spread needs unit: the rows of one value are spread over one unit of time"
            raise ValueError(msg)
        return self


class Delay(_Part):
    """How long after the payment its label becomes known: `fixed`, or log-normal around `median`."""

    fixed: Span | None = None
    median: Span | None = None
    sigma: float = Field(default=0.7, ge=0)
    max: Span = timedelta(days=30)
    seed: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.fixed is None) == (self.median is None):
            msg = "exactly one of fixed, median must be given"
            raise ValueError(msg)
        return self


class LabelMapping(_Part):
    """Which rows are fraud, and when that becomes known."""

    is_fraud: Value
    delay: Delay
    fraud_type: Value | None = None
    labeler: str = "chargeback"


@dataclass(frozen=True)
class Mapping:
    """A mapping file: where each column of a stream comes from, and which rows get a label."""

    stream: EventStream
    section: str
    """How the file calls the stream: its name, or its name without the final s."""
    columns: dict[str, Value | Time]
    """By column of the stream; a column that is left out is null."""
    label: LabelMapping | None = None
    label_stream: EventStream | None = None
    """The stream of labels about `stream` (`EventStream.labels`)."""
    delimiter: str = ","

    def parts(self) -> dict[str, tuple[Value | Time, bool]]:
        """Return every mapped value by its place in the file, and whether its column must not be null."""
        parts: dict[str, tuple[Value | Time, bool]] = {
            f"{self.section}.{name}": (how, name in self.stream.required)
            for name, how in self.columns.items()
        }
        if self.label is not None:
            parts["label.is_fraud"] = (self.label.is_fraud, False)
            if self.label.fraud_type is not None:
                parts["label.fraud_type"] = (self.label.fraud_type, False)
        return parts


class _Head(_Part):
    """The keys of a mapping file that are not sections."""

    description: str = ""
    delimiter: str = Field(default=",", min_length=1, max_length=1)


def load(name_or_path: str) -> Mapping:
    """Read a mapping by its path, or a shipped one by its name. Raises `MappingError`."""
    path = Path(name_or_path)
    shipped = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    if not path.suffix and name_or_path in shipped:
        path = SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        near = get_close_matches(name_or_path, shipped, n=1)
        hint = f"did you mean {near[0]!r}" if near else f"give a YAML file or one of {', '.join(shipped)}"
        msg = f"there is no mapping {name_or_path!r}"
        raise MappingError(msg, todo=hint)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        msg = f"not YAML: {error}"
        raise MappingError(msg, where=path, todo="correct the file") from error
    if not isinstance(loaded, dict):
        raise MappingError(
            "a mapping has keys and values", where=path, todo="see docs/bring-your-own-data.md"
        )
    model, stream, section, label_stream = _model_of(loaded)
    try:
        made: Any = model.model_validate(loaded)
    except ValidationError as error:
        msg = "; ".join(_explain(problem, model) for problem in error.errors())
        raise MappingError(msg, where=path, todo="see docs/bring-your-own-data.md") from error
    if stream is None:
        raise MappingError(
            "no section names a stream", where=path, todo=f"add a section for one of: {', '.join(STREAMS)}"
        )
    columns = {name: how for name, how in getattr(made, section) if how is not None}
    label = getattr(made, "label", None)
    return Mapping(stream, section, columns, label, label_stream, made.delimiter)


def _model_of(loaded: dict[Any, Any]) -> tuple[type[BaseModel], EventStream | None, str, EventStream | None]:
    """Return (model of the file, its stream, how the file calls it, the stream of its labels)."""
    named = {key: found for key in loaded if (found := _stream_of(str(key))) is not None}
    about = {stream.name for stream in named.values()}
    sections = {key: stream for key, stream in named.items() if stream.labels not in about}
    section, stream = next(iter(sections.items()), ("", None))
    fields: dict[str, Any] = {}
    label_stream: EventStream | None = None
    if stream is not None:
        fields[section] = (_section(stream), ...)
        label_stream = next((s for s in STREAMS.values() if s.labels == stream.name), None)
        if label_stream is not None:
            fields["label"] = (LabelMapping | None, None)
    model: type[BaseModel] = create_model("Mapping", __base__=_Head, **fields)
    return model, stream, section, label_stream


def _stream_of(key: str) -> EventStream | None:
    """Return the stream a section is about, None for another key."""
    return STREAMS.get(key) or STREAMS.get(f"{key}s")


def _section(stream: EventStream) -> type[BaseModel]:
    """Return the model of a stream's section: one optional key per column, required where the column is."""
    fields: dict[str, Any] = {}
    for column in stream.schema:
        kind: Any = Time if pa.types.is_timestamp(column.type) else Value
        fields[column.name] = (kind, ...) if column.name in stream.required else (kind | None, None)
    return create_model(stream.name, __base__=_Part, **fields)


def _explain(problem: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        inside = model
        for part in problem["loc"][:-1]:
            field = inside.model_fields.get(str(part))
            kinds = [field.annotation, *get_args(field.annotation)] if field is not None else []
            inside = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), Value)
        known = list(inside.model_fields)
        if len(problem["loc"]) == 1:
            known += [*STREAMS, *(name.removesuffix("s") for name in STREAMS)]
        near = get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"{place} is not a known key" + (f", did you mean {near[0]!r}?" if near else "")
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"
