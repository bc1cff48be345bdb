"""One row per mature payment of the three parts, as of its event time: features, label as its part knew it, part.

Gated twice: the log before its features are computed, the set before a model sees it.
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
from training.validation import Gate, joined_suite, training_suite


@dataclass(frozen=True, slots=True)
class Sample:
    """Labelled payments of one part, aligned; amounts in major units of their currency."""

    target: npt.NDArray[np.uint8]
    amount: npt.NDArray[np.float64]
    account: npt.NDArray[np.object_]
    kind: npt.NDArray[np.object_]
    """`fraud_type` of the labels, None for honest payments."""
    days: float


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Everything aligned, row by row, in event order."""

    payments: pa.Table
    matrix: Matrix
    labels: Labels
    part: npt.NDArray[np.int8]
    split: Split
    all_missing: tuple[str, ...]
    """Features without a single value, such as places in a source that knows none."""

    def of(self, name: str) -> npt.NDArray[np.bool_]:
        """Mask of a part's rows."""
        return np.asarray(self.part == PARTS[name])

    def sample(self, name: str, days: float) -> Sample:
        """What evaluation needs of a part."""
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
    gate: Gate,
    steps: Steps,
    *,
    joined: Sequence[str] = (),
    gated: bool,
) -> tuple[pa.Table, Split]:
    """Mature payments of the window, and how it is split; checked against the row checks of the stream.

    `joined` are the log's columns beyond a payment's own that the features are made from: held to being there, not returned.
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
        step.found = f"{rows.num_rows:,} mature payments, {window.since:%d %b} to {split.test.until:%d %b %Y}"
    expected = [*PAYMENTS.suite["expectations"], *joined_suite(joined, config.gate)]
    with steps.step("gate_log", "Checking the log") as step:
        every = -(-rows.num_rows // config.gate.max_log_rows)
        sampled = rows.take(pa.array(np.arange(0, rows.num_rows, every)))
        verdict = gate.check("payments log", sampled.to_pandas(), expected)
        step.found = f"{verdict.expectations} expectations on {verdict.rows:,} rows"
    if gated:
        gate.insist()
    return rows.select(PAYMENTS.schema.names), split


def assemble(
    source: FeatureSource,
    rows: pa.Table,
    split: Split,
    config: TrainingConfig,
    settings: RepoSettings,
    gate: Gate,
    steps: Steps,
    *,
    gated: bool,
) -> TrainingSet:
    """Features and labels of the rows that belong to a part, held to the suite derived from the service."""
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
    with steps.step("gate_set", "Checking the training set") as step:
        keys = {"event_id": rows["event_id"], "event_timestamp": rows["event_timestamp"]}
        target = {"target": pa.array(labels.target.astype(np.int64))}
        columns = {name: features[name] for name in features.column_names}
        frame = pa.table({**keys, **target, **columns}).to_pandas()
        suite = training_suite(source.features, split, config.gate, all_missing=frozenset(empty))
        verdict = gate.check("training set", frame, suite)
        gate.write_docs()
        step.found = f"{verdict.expectations} expectations, {len(verdict.failures)} did not hold"
    if gated:
        gate.insist()
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
