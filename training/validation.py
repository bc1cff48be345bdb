"""Validation of the training data with Great Expectations: one verdict on the log, one on the training set.

The log is validated by the suite that the flow uses for rows (`PAYMENTS.suite`). The suite of the training set is
derived: columns and order from the feature service, "never null" and "never negative" from the meaning of each
aggregation, bounds from the configuration. Joined columns may be null, but not in nearly all rows, which would mean
that the join is broken. Data Docs are always written.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from feature_repo.errors import ValidationError
from training.feature_matrix import Feature
from training.settings import ValidationSettings
from training.split import Split

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read on import; training must not use the network

import great_expectations as gx

LARGEST: Final = float(np.finfo(np.float32).max)

Expectation = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that failed: batch, column (or "table"), what was expected and what was found."""

    batch: str
    column: str
    expected: str
    seen: str

    def __str__(self) -> str:
        """Return one readable line."""
        return f"{self.batch}: {self.column}: expected {self.expected}, saw {self.seen}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of validating one batch: rows, number of expectations, failures."""

    batch: str
    rows: int
    expectations: int
    failures: Sequence[Failure]

    @property
    def success(self) -> bool:
        """Whether all expectations of the batch were met."""
        return not self.failures


@dataclass(slots=True)
class Validator:
    """Validates the batches of one run, keeps the verdicts and writes their Data Docs to `docs`."""

    docs: Path
    verdicts: list[Verdict] = field(default_factory=list)
    _context: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Start an in-memory Great Expectations context whose only site is `docs`."""
        with _quiet():
            self._context = gx.get_context(mode="ephemeral")
            self._context.variables.progress_bars = {"globally": False}
            self._context.delete_data_docs_site("local_site")
            self._context.add_data_docs_site(
                "millstream",
                {
                    "class_name": "SiteBuilder",
                    "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                    "store_backend": {
                        "class_name": "TupleFilesystemStoreBackend",
                        "base_directory": str(self.docs.resolve()),
                    },
                },
            )

    @property
    def success(self) -> bool:
        """Whether every batch passed."""
        return all(verdict.success for verdict in self.verdicts)

    @property
    def failures(self) -> list[Failure]:
        """The failures of all batches."""
        return [failure for verdict in self.verdicts for failure in verdict.failures]

    def check(self, batch: str, frame: pd.DataFrame, expectations: Sequence[Expectation]) -> Verdict:
        """Validate a frame by a suite (each expectation is {type, kwargs}), and keep and return the verdict."""
        with _quiet():
            suite = self._context.suites.add(gx.ExpectationSuite(name=batch, expectations=list(expectations)))
            asset = self._context.data_sources.add_pandas(batch).add_dataframe_asset(batch)
            definition = self._context.validation_definitions.add(
                gx.ValidationDefinition(
                    name=batch, data=asset.add_batch_definition_whole_dataframe("run"), suite=suite
                )
            )
            result = definition.run(batch_parameters={"dataframe": frame}, result_format="BASIC")
        failures = [_failure(batch, r) for r in result.results if not r.success]
        verdict = Verdict(batch, len(frame), len(expectations), failures)
        self.verdicts.append(verdict)
        return verdict

    def write_docs(self) -> Path:
        """Write the Data Docs of all batches so far; return the path of the index page."""
        with _quiet():
            self._context.build_data_docs()
        return self.docs / "index.html"

    def raise_on_failure(self) -> None:
        """Write the Data Docs. Raises `ValidationError` if any expectation failed."""
        page = self.write_docs()
        if not self.success:
            shown = self.failures[:10]
            more = len(self.failures) - len(shown)
            lines = "".join(f"\n  {failure}" for failure in shown) + (f"\n  and {more} more" if more else "")
            raise ValidationError(
                f"the training data is not valid:{lines}\n",
                where=page,
                todo="open that page and correct the data, or train anyway with --no-gate",
            )


def training_suite(
    features: Sequence[Feature],
    split: Split,
    settings: ValidationSettings,
    *,
    all_missing: frozenset[str] = frozenset(),
) -> list[Expectation]:
    """What a training set must be, column by column; `all_missing` features have no value to be bounded."""
    names = [feature.name for feature in features]
    since, until = split.train.since, split.test.until

    def of(kind: str, **kwargs: Any) -> Expectation:
        return {"type": f"expect_{kind}", "kwargs": kwargs}

    suite = [
        of(
            "table_columns_to_match_ordered_list",
            column_list=["event_id", "event_timestamp", "target", *names],
        ),
        of("table_row_count_to_be_between", min_value=settings.min_rows),
        of("column_values_to_be_unique", column="event_id"),
        of("column_min_to_be_between", column="event_timestamp", min_value=since.isoformat()),
        of("column_max_to_be_between", column="event_timestamp", max_value=until.isoformat()),
        of("column_values_to_be_in_set", column="target", value_set=[0, 1]),
        of(
            "column_mean_to_be_between",
            column="target",
            min_value=settings.min_fraud_share,
            max_value=settings.max_fraud_share,
        ),
    ]
    for feature in features:
        limit = settings.max_missing_joined if feature.joined else settings.max_missing
        limit = 0.0 if feature.never_null else settings.max_missing_of.get(feature.name, limit)
        if limit < 1:
            suite.append(_known(feature.name, limit))
        if feature.name not in all_missing:
            least = -LARGEST if feature.at_least is None else feature.at_least
            suite.append(of("column_min_to_be_between", column=feature.name, min_value=least))
            suite.append(of("column_max_to_be_between", column=feature.name, max_value=LARGEST))
    return suite


def joined_suite(columns: Sequence[str], settings: ValidationSettings) -> list[Expectation]:
    """Return the expectations that joined columns are not null in nearly all rows; single rows may have nulls."""
    limits = {column: settings.max_missing_of.get(column, settings.max_missing_joined) for column in columns}
    return [_known(column, limit) for column, limit in limits.items() if limit < 1]


def _known(column: str, limit: float) -> Expectation:
    """Return the expectation that at most this share of a column is null."""
    kwargs: dict[str, Any] = {"column": column}
    if limit > 0:
        kwargs["mostly"] = round(1 - limit, 12)
    return {"type": "expect_column_values_to_not_be_null", "kwargs": kwargs}


def _failure(batch: str, result: Any) -> Failure:
    config = result.expectation_config
    kwargs: Mapping[str, Any] = {k: v for k, v in config.kwargs.items() if k not in {"batch_id", "column"}}
    expected = config.type.removeprefix("expect_column_").removeprefix("expect_").replace("_", " ")
    terms = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in kwargs.items() if value is not None
    )
    seen = result.result or {}
    if "observed_value" in seen:
        what = str(seen["observed_value"])
    elif seen.get("unexpected_count") is not None:
        shown = [v for v in seen.get("partial_unexpected_list", [])[:3] if not pd.isna(v)]
        examples = ", ".join(map(repr, shown))
        what = f"{seen['unexpected_count']} of {seen['element_count']} otherwise" + (
            f" (such as {examples})" if examples else ""
        )
    else:
        exceptions = (result.exception_info or {}).values()
        what = "; ".join(str(e["exception_message"]) for e in exceptions if isinstance(e, dict)) or "nothing"
    return Failure(
        batch, str(config.kwargs.get("column", "table")), expected + (f" ({terms})" if terms else ""), what
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings that Great Expectations gives about its own internals."""
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
