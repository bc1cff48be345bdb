"""One configuration per training run, frozen; its defaults are `training/fraud_detection.yaml`, its fields are documented here.

Durations are in days as they stand in YAML and on the command line; `timedelta` properties give them in Python's own kind.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from feature_repo.errors import SettingsError

DEFAULT_CONFIG: Final = Path(__file__).with_name("fraud_detection.yaml")

Share = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[float, Field(gt=0)]
Weighting = Literal["none", "sqrt", "balanced"]


class _Frozen(BaseModel):
    """Unknown keys are refused: a misspelt setting must not be read as its default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(_Frozen):
    """Which payments and which labels."""

    since: AwareDatetime | None = Field(
        None, description="First event time, inclusive; null: start of the log"
    )
    until: AwareDatetime | None = Field(
        None, description="End of event time, exclusive; null: end of the log"
    )
    cutoff: AwareDatetime | None = Field(
        None, description="Labels that became known after this instant do not exist; null: end of the log"
    )
    label_view: str = Field("fraud_label", description="Feast LabelView that says what is fraud")
    label_delay_days: Days = Field(
        3.0, description="After how long a fraud has normally been reported; younger payments are left out"
    )
    warmup_days: float = Field(
        1.0, ge=0, description="First days of the window that only fill the features, and are not trained on"
    )

    @property
    def label_delay(self) -> timedelta:
        """`label_delay_days` as a duration."""
        return timedelta(days=self.label_delay_days)

    @property
    def warmup(self) -> timedelta:
        """`warmup_days` as a duration."""
        return timedelta(days=self.warmup_days)


class SplitSettings(_Frozen):
    """How much of the end of the window is held out."""

    valid_days: Days = Field(4.0, description="Early stopping and thresholds are decided on these days")
    test_days: Days = Field(5.0, description="Everything reported is measured on these last days")
    min_fraud: int = Field(5, ge=1, description="Fewer frauds than this in any part: refuse to train")

    @property
    def valid(self) -> timedelta:
        """`valid_days` as a duration."""
        return timedelta(days=self.valid_days)

    @property
    def test(self) -> timedelta:
        """`test_days` as a duration."""
        return timedelta(days=self.test_days)


class GateSettings(_Frozen):
    """What the training set must be like beyond what its features say themselves."""

    min_fraud_share: Share = Field(
        0.0002, description="A smaller share of fraud means that labels are missing"
    )
    max_fraud_share: Share = Field(0.2, description="A larger share of fraud means that payments are missing")
    min_rows: int = Field(1_000, ge=1, description="Fewer rows than this are no training set")
    max_missing: Share = Field(
        1.0,
        description="Largest share of nulls in any one feature; 1 allows columns the source does not have",
    )
    max_missing_joined: Share = Field(
        0.98,
        description="Largest share of nulls where something was joined to the payment (customer, merchant, charge), and in "
        "what was derived from it, in the log and in the features; above it the join is taken to be broken",
    )
    max_missing_of: Mapping[str, Share] = Field(
        {}, description="The same for single columns or features by name, instead of the two general limits"
    )
    max_log_rows: int = Field(
        250_000,
        ge=1,
        description="The log batch is checked on at most this many rows, evenly spread over its time; the flow "
        "has already checked every row",
    )


class ModelSettings(_Frozen):
    """How the gradient-boosted trees are grown."""

    rounds: int = Field(300, ge=1, description="Most trees")
    patience: int = Field(
        30, ge=1, description="Stop when average precision has not improved for so many trees"
    )
    learning_rate: float = Field(0.1, gt=0, le=1, description="Shrinkage of every tree")
    max_depth: int = Field(4, ge=1, le=16, description="Depth of a tree")
    max_bin: int = Field(
        1024, ge=16, description="Bins a feature is cut into; 256 would blur the tail of the amounts"
    )
    min_child_weight: float = Field(
        0.1, ge=0, description="Least sum of the Hessian in a leaf; 1 would ask for about 110 rare frauds"
    )
    base_score: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Where boosting starts; the estimated fraud rate would freeze small leaves",
    )
    reg_lambda: float = Field(1.0, ge=0, description="L2 penalty on leaf values")
    subsample: float = Field(0.7, gt=0, le=1, description="Share of rows a tree sees")
    colsample: float = Field(0.4, gt=0, le=1, description="Share of features a tree sees")
    weighting: tuple[Weighting, ...] = Field(
        ("none",),
        min_length=1,
        description="Weights of a fraud to try (1, root of the imbalance, the imbalance); the best on the "
        "validation days is kept",
    )
    threads: int = Field(2, ge=1, description="Threads; pinned, because the sums depend on it")
    seed: int = Field(7, ge=0, description="Seed of everything random")


class Rule(_Frozen):
    """One line of the rules baseline: `points` if the feature reaches `at_least` (and is not missing)."""

    feature: str = Field(
        description="Name of a feature of the service; a rule on an absent feature is reported, not used"
    )
    at_least: float = Field(description="The rule fires from this value on")
    points: float = Field(1.0, gt=0, description="What firing adds to the score")


class CostSettings(_Frozen):
    """What decisions cost, in major units of the payments' currency. Thresholds minimise the sum."""

    review: float = Field(4.0, ge=0, description="One payment looked at by an analyst")
    declined_good: float = Field(15.0, ge=0, description="One honest payment declined: support, anger")
    declined_good_share: Share = Field(0.02, description="Plus this share of its amount: margin lost")
    missed_fraud_share: float = Field(
        1.0, ge=0, description="Share of the amount of an approved fraud that is lost"
    )
    missed_fraud: float = Field(
        25.0, ge=0, description="Plus this per approved fraud: chargeback fee, handling"
    )
    reviews_per_day: float = Field(60.0, ge=0, description="Reviews the analysts can do a day, on average")


class ReportSettings(_Frozen):
    """How results are stated."""

    bootstrap: int = Field(300, ge=20, description="Resamples behind each interval; whole accounts are drawn")
    confidence: float = Field(0.95, gt=0, lt=1, description="Coverage of the intervals")
    top_features: int = Field(20, ge=1, description="Bars in the importance plot")


class TrainingConfig(_Frozen):
    """Everything a run depends on besides the log and the registry.

    >>> TrainingConfig.load().model.base_score
    0.5
    """

    name: str = Field(
        "fraud_detection", pattern=r"^[a-z][a-z0-9_]*$", description="Model name, and its folder's"
    )
    data: DataSettings = Field(
        default_factory=lambda: DataSettings.model_validate({}), description="Window, cut-off, label delay"
    )
    split: SplitSettings = Field(
        default_factory=lambda: SplitSettings.model_validate({}), description="Validation and test days"
    )
    gate: GateSettings = Field(
        default_factory=lambda: GateSettings.model_validate({}), description="Bounds of the training set"
    )
    model: ModelSettings = Field(
        default_factory=lambda: ModelSettings.model_validate({}), description="XGBoost"
    )
    compare_services: tuple[str, ...] = Field(
        (),
        description="Smaller services, whose features are all in the trained one: the same model is grown on their features "
        "alone, to show what the others bring",
    )
    rules: tuple[Rule, ...] = Field((), description="The rules baseline")
    cost: CostSettings = Field(
        default_factory=lambda: CostSettings.model_validate({}), description="Cost table"
    )
    report: ReportSettings = Field(
        default_factory=lambda: ReportSettings.model_validate({}), description="Intervals and plots"
    )

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.gate.min_fraud_share > self.gate.max_fraud_share:
            msg = f"gate.min_fraud_share {self.gate.min_fraud_share} is above max_fraud_share {self.gate.max_fraud_share}"
            raise ValueError(msg)
        if self.data.since and self.data.until and self.data.since >= self.data.until:
            msg = f"data.since {self.data.since} is not before data.until {self.data.until}"
            raise ValueError(msg)
        return self

    @classmethod
    def load(cls, path: Path = DEFAULT_CONFIG) -> Self:
        """Read a YAML file; what it does not name has its default."""
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SettingsError(
                "no such training configuration", where=path, todo=f"copy {DEFAULT_CONFIG.name} and edit it"
            ) from None
        except yaml.YAMLError as error:
            raise SettingsError(f"not YAML: {error}", where=path, todo="correct the file") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise SettingsError(
                f"a mapping is needed, not {type(loaded).__name__}", where=path, todo="correct the file"
            )
        return cls.checked(loaded or {}, where=path)

    @classmethod
    def checked(cls, values: Mapping[str, Any], *, where: object) -> Self:
        """Validate, with one line per wrong setting."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'configuration'}: {e['msg']}" for e in error.errors()
            )
            raise SettingsError(wrong, where=where, todo="correct these settings") from None

    def replace(self, **changes: Any) -> Self:
        """Copy with dotted settings changed, None meaning unchanged: `config.replace(**{"split.test_days": 7})`."""
        values = self.model_dump()
        for dotted, value in changes.items():
            if value is None:
                continue
            *sections, name = dotted.split(".")
            target = values
            for section in sections:
                target = target[section]
            target[name] = value
        return self.checked(values, where="command line")


def utc(text: str) -> datetime:
    """Parse a date or RFC 3339 time; without a zone it is UTC.

    >>> utc("2026-11-22").isoformat()
    '2026-11-22T00:00:00+00:00'
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"not a time: {text!r}", where="command line", todo="write 2026-11-22 or 2026-11-22T04:19:55Z"
        ) from None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
