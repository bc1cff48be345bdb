"""What a mapping file may say: for each column of the canonical schema, where its values come from.

A mapping is data, never code: a column, a constant or a template, then a few fixed conversions.
"""

from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from feature_repo.errors import MappingError

SHIPPED: Final = Path(__file__).resolve().parent / "mappings"
ROW: Final = "row"
"""Name of the row number (from 0) in templates; a column of that name cannot be used in them."""

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
    """Durations as people write them: 36h, 2d, 90min, 30s."""
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
    """YAML reads 1 and true as no text; values are compared as text."""
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
    """Text or number: exactly one of column, constant, template; then values, divide, prefix."""

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
        """Columns a template names, the row number included."""
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
        """Columns of the file it needs."""
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
            msg = "spread needs unit: it says how wide the stretch is over which rows of one value are spread"
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


class PaymentMapping(_Part):
    """Where each column of PAYMENT comes from; what is left out is null."""

    event_id: Value
    event_timestamp: Time
    account_id: Value
    merchant_id: Value
    type: Value
    amount: Value
    currency: Value
    account_balance_before: Value | None = None
    account_balance_after: Value | None = None
    merchant_balance_before: Value | None = None
    merchant_balance_after: Value | None = None
    latitude: Value | None = None
    longitude: Value | None = None
    channel: Value | None = None
    device_id: Value | None = None


class LabelMapping(_Part):
    """Which rows are fraud, and when that becomes known."""

    is_fraud: Value
    delay: Delay
    fraud_type: Value | None = None
    labeler: str = "chargeback"


class Mapping(_Part):
    """A mapping file."""

    description: str = ""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    payment: PaymentMapping
    label: LabelMapping | None = None


def load(name_or_path: str) -> Mapping:
    """Read a mapping by its path, or a shipped one by its name."""
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
        return Mapping.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        msg = f"not YAML: {error}"
        raise MappingError(msg, where=path, todo="correct the file") from error
    except ValidationError as error:
        msg = "; ".join(_explain(problem) for problem in error.errors())
        raise MappingError(msg, where=path, todo="see docs/bring-your-own-data.md") from error


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {"payment": PaymentMapping, "label": LabelMapping}
        depths: dict[int, type[BaseModel]] = {1: Mapping, 2: parts.get(str(problem["loc"][0]), Mapping)}
        model = depths.get(len(problem["loc"]), Value)
        near = get_close_matches(str(problem["loc"][-1]), list(model.model_fields), n=1)
        return f"{place} is not a known key" + (f", did you mean {near[0]!r}?" if near else "")
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"
