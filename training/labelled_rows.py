"""The training set: one row per payment that is old enough to be labelled, with its features as of its event time.

The label of a row is the one known when its part of the split ends. The data is validated twice: the log before the
features are computed, and the training set before a model is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.errors import DataError
from feature_repo.settings import RepoSettings
from feature_repo.streams.payments import PAYMENTS
from training import feature_matrix
from training.feature_matrix import FeatureSource, Matrix
from training.labels import Labels, as_known, log_files, read_payments, read_window
from training.progress import Steps
from training.settings import TrainingConfig
from training.split import NONE, PARTS, Split, time_split
from training.validation import Validator, joined_suite, training_suite


@dataclass(frozen=True, slots=True)
class Sample:
    """Labelled payments of one part; all arrays have one entry per payment, amounts are in major units."""

    target: npt.NDArray[np.uint8]
    amount: npt.NDArray[np.float64]
    account: npt.NDArray[np.object_]
    kind: npt.NDArray[np.object_]
    """`fraud_type` of the labels, None for honest payments."""
    days: float


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """All rows in order of event time. `matrix` is float32[rows, features], `part` the part of each row."""

    payments: pa.Table
    matrix: Matrix
    labels: Labels
    part: npt.NDArray[np.int8]
    split: Split
    all_missing: tuple[str, ...]
    """Features that are null in every row, such as coordinates if the source has none."""

    def of(self, name: str) -> npt.NDArray[np.bool_]:
        """Return the mask of the rows of a part, bool[rows]."""
        return np.asarray(self.part == PARTS[name])

    def sample(self, name: str, days: float) -> Sample:
        """Return the labelled payments of a part, which lasts `days`."""
        mask = self.of(name)
        return Sample(
            target=self.labels.target[mask],
            amount=self.payments["amount"].to_numpy()[mask],
            account=self.payments["account_id"].to_numpy()[mask],
            kind=self.labels.fraud_type.to_numpy(zero_copy_only=False)[mask],
            days=days,
        )


def read(
    config: TrainingConfig,
    settings: RepoSettings,
    validator: Validator,
    steps: Steps,
    *,
    joined: Sequence[str] = (),
    stop_on_failure: bool,
) -> tuple[pa.Table, Split]:
    """Return the payments of the window that are old enough to be labelled, and the split of the window.

    The log is validated by the row checks of the stream. `joined` are joined columns that features are computed from:
    they are validated too, and not returned. Raises `ValidationError` with `stop_on_failure`.
    """
    wanted = config.data
    with steps.step("read", "Reading the log") as step:
        window = read_window(
            settings.payments_log, since=wanted.since, until=wanted.until, cutoff=wanted.cutoff
        )
        split = time_split(
            window,
            label_delay=wanted.label_delay,
            valid=config.split.valid,
            test=config.split.test,
            warmup=wanted.warmup,
        )
        rows = read_payments(settings.payments_log, window, label_delay=wanted.label_delay, also=joined)
        step.found = f"{rows.num_rows:,} payments old enough to be labelled, {window.since:%d %b} to {split.test.until:%d %b %Y}"
    expected = [*PAYMENTS.suite["expectations"], *joined_suite(joined, config.validation)]
    with steps.step("validate_log", "Validating the log") as step:
        every = -(-rows.num_rows // config.validation.max_log_rows)
        sampled = rows.take(pa.array(np.arange(0, rows.num_rows, every)))
        verdict = validator.check("payments log", sampled.to_pandas(), expected)
        step.found = f"{verdict.expectations} expectations on {verdict.rows:,} rows"
    if stop_on_failure:
        validator.raise_on_failure()
    return rows.select(PAYMENTS.schema.names), split


def assemble(
    source: FeatureSource,
    rows: pa.Table,
    split: Split,
    config: TrainingConfig,
    settings: RepoSettings,
    validator: Validator,
    steps: Steps,
    *,
    stop_on_failure: bool,
) -> TrainingSet:
    """Compute features and labels of the rows of the three parts, and validate them by the suite of the service."""
    part = split.assign(rows["event_timestamp"].cast(pa.int64()).to_numpy())
    rows, part = rows.filter(pa.array(part != NONE)), part[part != NONE]
    with steps.step("labels", "Labels") as step:
        log_files(settings.labels_log, "labels")
        labels = as_known(source, rows, known_at=split.known_at(part))
        step.found = f"{labels.frauds:,} frauds, {labels.frauds / max(1, rows.num_rows):.3%}"
    with steps.step("features", "Features") as step:
        features = feature_matrix.fetch_features(source, rows)
        matrix = feature_matrix.to_matrix(features)
        empty = tuple(np.array(features.column_names)[np.isnan(matrix).all(axis=0)].tolist())
        step.found = f"{features.num_rows:,} rows, {features.num_columns} features of {source.service}"
    with steps.step("validate_set", "Validating the training set") as step:
        keys = {"event_id": rows["event_id"], "event_timestamp": rows["event_timestamp"]}
        target = {"target": pa.array(labels.target.astype(np.int64))}
        columns = {name: features[name] for name in features.column_names}
        frame = pa.table({**keys, **target, **columns}).to_pandas()
        suite = training_suite(source.features, split, config.validation, all_missing=frozenset(empty))
        verdict = validator.check("training set", frame, suite)
        validator.write_docs()
        step.found = f"{verdict.expectations} expectations, {len(verdict.failures)} failed"
    if stop_on_failure:
        validator.raise_on_failure()
    made = TrainingSet(rows, matrix, labels, part, split, empty)
    for name in PARTS:
        frauds = int(labels.target[made.of(name)].sum())
        if frauds < config.split.min_fraud:
            raise DataError(
                f"{frauds} frauds in the {name} days, fewer than {config.split.min_fraud}",
                where=f"{name} part of the split",
                todo="take a longer history, or lower split.min_fraud",
            )
    return made
