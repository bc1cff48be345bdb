"""One verdict per batch: the log as it was read, and the training set as it is about to be used.

The log batch is held to the suite the flow checks rows with (`PAYMENTS.suite`). The suite of the
training set is derived: columns and order from the feature service, "never null" and "never negative" from the meaning of
each aggregation, bounds from the configuration. What was joined to a payment may be null, but not nearly everywhere: that is a
join which broke. Data Docs are written whatever the verdict.
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
from training.settings import GateSettings
from training.split import Split

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read on import; a gate must not talk to the network

import great_expectations as gx

LARGEST: Final = float(np.finfo(np.float32).max)

Expectation = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """One expectation that did not hold: which batch, which column (or the table), what was expected and seen."""

    batch: str
    column: str
    expected: str
    seen: str

    def __str__(self) -> str:
        """One readable line."""
        return f"{self.batch}: {self.column}: expected {self.expected}, saw {self.seen}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a batch was held to, and what did not hold."""

    batch: str
    rows: int
    expectations: int
    failures: Sequence[Failure]

    @property
    def success(self) -> bool:
        """Whether everything held."""
        return not self.failures


@dataclass(slots=True)
class Gate:
    """Collects the verdicts of one run and writes their Data Docs."""

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
        """Everything that did not hold, over all batches."""
        return [failure for verdict in self.verdicts for failure in verdict.failures]

    def check(self, batch: str, frame: pd.DataFrame, expectations: Sequence[Expectation]) -> Verdict:
        """Hold a frame to a suite of {type, kwargs} and remember the verdict."""
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
        """Write Data Docs of all batches so far; returns the page to open."""
        with _quiet():
            self._context.build_data_docs()
        return self.docs / "index.html"

    def insist(self) -> None:
        """Write the docs, and raise if anything did not hold."""
        page = self.write_docs()
        if not self.success:
            shown = self.failures[:10]
            more = len(self.failures) - len(shown)
            lines = "".join(f"\n  {failure}" for failure in shown) + (f"\n  and {more} more" if more else "")
            raise ValidationError(
                f"the data is not fit to train on:{lines}\n",
                where=page,
                todo="open that page, correct the data, or train all the same with --no-gate",
            )


def training_suite(
    features: Sequence[Feature],
    split: Split,
    settings: GateSettings,
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


def joined_suite(columns: Sequence[str], settings: GateSettings) -> list[Expectation]:
    """That what was joined to the payments is there at all; single rows may lack it, as for a customer nobody knows."""
    limits = {column: settings.max_missing_of.get(column, settings.max_missing_joined) for column in columns}
    return [_known(column, limit) for column, limit in limits.items() if limit < 1]


def _known(column: str, limit: float) -> Expectation:
    """Not more than this share of nulls."""
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
    """Great Expectations warns about its own insides; what matters is in the verdict."""
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
