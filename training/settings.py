"""The configuration of a training run. Defaults are in `training/fraud_detection.yaml`; the fields are documented here.

Durations are in days, in YAML and on the command line; properties return them as `timedelta`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from feature_repo.errors import SettingsError

DEFAULT_CONFIG: Final = Path(__file__).with_name("fraud_detection.yaml")

Share = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[float, Field(gt=0)]
Weighting = Literal["none", "sqrt", "balanced"]


class _Frozen(BaseModel):
    """Immutable settings. Unknown keys are an error, so that a misspelt setting is not silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(_Frozen):
    """Which payments and labels are used."""

    since: AwareDatetime | None = Field(
        None, description="First event time, inclusive; null: start of the log"
    )
    until: AwareDatetime | None = Field(
        None, description="End of event time, exclusive; null: end of the log"
    )
    cutoff: AwareDatetime | None = Field(
        None, description="Labels that became known after this time are not used; null: end of the log"
    )
    label_view: str = Field("fraud_label", description="Feast LabelView with the labels")
    label_delay_days: Days = Field(
        3.0,
        description="Time after which a fraud has normally been reported; more recent payments are left out",
    )
    warmup_days: float = Field(
        1.0,
        ge=0,
        description="First days of the window, which only fill the features and are not used for training",
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
    """How many days at the end of the window are held out."""

    valid_days: Days = Field(4.0, description="Days before the test days, for early stopping and thresholds")
    test_days: Days = Field(5.0, description="Last days, on which all reported figures are measured")
    min_fraud: int = Field(
        5, ge=1, description="Least number of frauds in each part; with fewer, training stops"
    )

    @property
    def valid(self) -> timedelta:
        """`valid_days` as a duration."""
        return timedelta(days=self.valid_days)

    @property
    def test(self) -> timedelta:
        """`test_days` as a duration."""
        return timedelta(days=self.test_days)


class ValidationSettings(_Frozen):
    """Bounds of the training set, in addition to those that follow from the features themselves."""

    min_fraud_share: Share = Field(
        0.0002, description="A smaller share of fraud means that labels are missing"
    )
    max_fraud_share: Share = Field(0.2, description="A larger share of fraud means that payments are missing")
    min_rows: int = Field(1_000, ge=1, description="Least number of rows of the training set")
    max_missing: Share = Field(
        1.0,
        description="Largest share of nulls in a feature; 1 allows columns that the source does not have",
    )
    max_missing_joined: Share = Field(
        0.98,
        description="Largest share of nulls in columns joined to the payment (customer, merchant, charge) and in columns and "
        "features computed from them; a larger share means that the join is broken",
    )
    max_missing_of: Mapping[str, Share] = Field(
        {}, description="The same per column or feature, by name; replaces the two general limits"
    )
    max_log_rows: int = Field(
        250_000,
        ge=1,
        description="The log is validated on at most this many rows, evenly spread over time; the flow "
        "has already validated every row",
    )


class ModelSettings(_Frozen):
    """Parameters of XGBoost."""

    rounds: int = Field(300, ge=1, description="Largest number of trees")
    patience: int = Field(
        30, ge=1, description="Stop when the average precision has not improved for so many trees"
    )
    learning_rate: float = Field(0.1, gt=0, le=1, description="Shrinkage of each tree")
    max_depth: int = Field(4, ge=1, le=16, description="Depth of a tree")
    max_bin: int = Field(
        1024, ge=16, description="Number of bins per feature; 256 is too coarse for the tail of the amounts"
    )
    min_child_weight: float = Field(
        0.1,
        ge=0,
        description="Least sum of the Hessian in a leaf; 1 would require about 110 rows per leaf for rare frauds",
    )
    base_score: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Initial prediction; starting at the fraud rate would prevent small leaves",
    )
    reg_lambda: float = Field(1.0, ge=0, description="L2 penalty on leaf values")
    subsample: float = Field(0.7, gt=0, le=1, description="Share of rows per tree")
    colsample: float = Field(0.4, gt=0, le=1, description="Share of features per tree")
    weighting: tuple[Weighting, ...] = Field(
        ("none",),
        min_length=1,
        description="Weights of a fraud to try (1, square root of the imbalance, the imbalance); the best on the "
        "validation days is used",
    )
    threads: int = Field(
        2, ge=1, description="Number of threads; fixed, because floating-point sums depend on it"
    )
    seed: int = Field(7, ge=0, description="Seed of all random numbers")


class Rule(_Frozen):
    """One rule of the rules baseline: adds `points` if the feature is not null and at least `at_least`."""

    feature: str = Field(
        description="Name of a feature; if the service does not have it, the rule is not used and is reported"
    )
    at_least: float = Field(description="Least value for which the rule applies")
    points: float = Field(1.0, gt=0, description="Points that the rule adds to the score")


class CostSettings(_Frozen):
    """Costs of decisions, in major units of the payments' currency. The thresholds minimise their sum."""

    review: float = Field(4.0, ge=0, description="Review of one payment by an analyst")
    declined_good: float = Field(
        15.0, ge=0, description="One honest payment declined: support, lost goodwill"
    )
    declined_good_share: Share = Field(0.02, description="Plus this share of its amount: lost margin")
    missed_fraud_share: float = Field(1.0, ge=0, description="One approved fraud: lost share of its amount")
    missed_fraud: float = Field(
        25.0, ge=0, description="Plus this fixed cost per approved fraud: chargeback fee, handling"
    )
    reviews_per_day: float = Field(60.0, ge=0, description="Largest number of reviews per day, on average")


class ReportSettings(_Frozen):
    """Intervals and plots of the report."""

    bootstrap: int = Field(300, ge=20, description="Number of bootstrap resamples (of accounts) per interval")
    confidence: float = Field(0.95, gt=0, lt=1, description="Confidence level of the intervals")
    top_features: int = Field(20, ge=1, description="Bars in the importance plot")


class TrainingConfig(_Frozen):
    """All settings of a training run.

    >>> TrainingConfig.load().model.base_score
    0.5
    """

    name: str = Field(
        "fraud_detection", pattern=r"^[a-z][a-z0-9_]*$", description="Name of the model and of its folder"
    )
    data: DataSettings = Field(
        default_factory=lambda: DataSettings.model_validate({}), description="Window, cutoff, label delay"
    )
    split: SplitSettings = Field(
        default_factory=lambda: SplitSettings.model_validate({}), description="Validation and test days"
    )
    validation: ValidationSettings = Field(
        default_factory=lambda: ValidationSettings.model_validate({}),
        validation_alias=AliasChoices("validation", "gate"),
        description="Bounds of the training set (the former name of this section, gate, still works)",
    )
    model: ModelSettings = Field(
        default_factory=lambda: ModelSettings.model_validate({}), description="XGBoost"
    )
    compare_services: tuple[str, ...] = Field(
        (),
        description="Smaller services, whose features are all in the trained one: the same model is trained on the features of "
        "each, to measure what the other features add",
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
        if self.validation.min_fraud_share > self.validation.max_fraud_share:
            msg = f"validation.min_fraud_share {self.validation.min_fraud_share} is above max_fraud_share {self.validation.max_fraud_share}"
            raise ValueError(msg)
        if self.data.since and self.data.until and self.data.since >= self.data.until:
            msg = f"data.since {self.data.since} is not before data.until {self.data.until}"
            raise ValueError(msg)
        return self

    @classmethod
    def load(cls, path: Path = DEFAULT_CONFIG) -> Self:
        """Read a YAML file; settings that are not in it have their defaults. Raises `SettingsError`."""
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
        """Validate settings. Raises `SettingsError`, which names all wrong ones; `where` says where they come from."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'configuration'}: {e['msg']}" for e in error.errors()
            )
            raise SettingsError(wrong, where=where, todo="correct these settings") from None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with dotted settings changed, such as `config.replace(**{"split.test_days": 7})`.

        None changes nothing.
        """
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
    """Parse a date or an RFC 3339 time; a time without a zone is UTC. Raises `SettingsError`.

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
