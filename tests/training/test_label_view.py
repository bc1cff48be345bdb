"""Labels come from the repository's own LabelView, through Feast: the latest statement known at an instant."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from feast import FeatureStore
from feast.cli.cli import cli
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from feature_repo.errors import DefinitionError, LogError
from feature_repo.settings import RepoSettings
from feature_repo.stores.open_store import config_file, open_store
from tests.kits.applied_home import feast
from tests.training.test_training_world import START, TableSource, World, label_log, make_world, naive_labels
from training.feature_matrix import FeastSource, check_views
from training.label_view import read_label_view
from training.labelled_rows import TrainingSet, assemble, read
from training.progress import Steps
from training.settings import TrainingConfig
from training.validation import Validator

US = timedelta(microseconds=1)

Statement = tuple[str, bool, str | None, datetime]


def _at(days: float) -> datetime:
    return START + timedelta(days=days)


@dataclass(frozen=True)
class Labels:
    """A home with the repository applied, whose labels log holds what a test says."""

    settings: RepoSettings
    store: FeatureStore

    def log(self, labels: pa.Table) -> None:
        self.settings.labels_log.mkdir(parents=True, exist_ok=True)
        pq.write_table(labels, self.settings.labels_log / "part-0.parquet")

    def read(self, *asked: tuple[str, datetime]) -> list[tuple[bool | None, str | None]]:
        said = read_label_view(
            self.store,
            "fraud_label",
            pa.chunked_array([[payment for payment, _ in asked]]),
            pa.array([at for _, at in asked], pa.timestamp("us", "UTC")),
        )
        return list(zip(said["is_fraud"].to_pylist(), said["fraud_type"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def labels(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labels]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MILLSTREAM_HOME", str(tmp_path_factory.mktemp("home")))
    patch.setenv("REDIS_URL", redis_url)
    settings = RepoSettings()
    feast(settings, "apply")
    yield Labels(settings, open_store(settings))
    patch.undo()


REPORT = ("p", True, "probe", _at(2))
OTHER_KIND = ("p", True, "drain", _at(4))
WITHDRAWN = ("p", False, None, _at(4))


@pytest.mark.parametrize(
    ("statements", "at", "expected"),
    [
        pytest.param([], _at(9), (None, None), id="never reported"),
        pytest.param([("other", True, "drain", _at(1))], _at(9), (None, None), id="another payment's label"),
        pytest.param([REPORT], _at(2) - US, (None, None), id="not yet known"),
        pytest.param([REPORT], _at(2), (True, "probe"), id="known from its very instant"),
        pytest.param([REPORT, OTHER_KIND], _at(4) - US, (True, "probe"), id="before the correction"),
        pytest.param([REPORT, OTHER_KIND], _at(4), (True, "drain"), id="corrected kind"),
        pytest.param([OTHER_KIND, REPORT], _at(5), (True, "drain"), id="order of arrival does not matter"),
        pytest.param([REPORT, WITHDRAWN], _at(3), (True, "probe"), id="before the withdrawal"),
        pytest.param([REPORT, WITHDRAWN], _at(400), (False, None), id="withdrawn, and never too old"),
        pytest.param([("p", True, None, _at(1))], _at(5), (True, None), id="fraud of unknown kind"),
    ],
)
def test_the_latest_statement_known_by_then_holds(
    labels: Labels, statements: list[Statement], at: datetime, expected: tuple[bool | None, str | None]
) -> None:
    labels.log(label_log(statements))
    assert labels.read(("p", at)) == [expected]


@pytest.mark.parametrize("later", [0, 1])
def test_of_two_statements_of_one_instant_the_one_accepted_later_holds(labels: Labels, later: int) -> None:
    said = label_log([("p", True, "probe", _at(2)), ("p", False, None, _at(2))])
    accepted = [_at(2), _at(2)]
    accepted[later] += timedelta(seconds=1)
    place = said.column_names.index("created_timestamp")
    labels.log(
        said.set_column(place, said.schema.field(place), pa.array(accepted, pa.timestamp("us", "UTC")))
    )
    assert labels.read(("p", _at(2))) == [[(True, "probe"), (False, None)][later]]


@settings(deadline=None, max_examples=25)
@given(
    events=st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 20)),
        max_size=25,
        unique_by=lambda e: (e[0], e[2]),
    ),
    asked=st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 21)), min_size=1, max_size=12),
)
def test_the_view_agrees_with_reading_the_statements_one_by_one(
    labels: Labels, events: list[tuple[int, bool, int]], asked: list[tuple[int, int]]
) -> None:
    said = label_log([(f"p{p}", fraud, "probe" if fraud else None, _at(day)) for p, fraud, day in events])
    labels.log(said)
    pairs = [(f"p{p}", _at(day)) for p, day in asked]
    expected = naive_labels(
        said.to_pylist(), pa.chunked_array([[p for p, _ in pairs]]), pa.array([at for _, at in pairs])
    )
    assert labels.read(*pairs) == expected


@dataclass(frozen=True)
class FromView(TableSource):
    """Features that lie ready, labels through Feast."""

    store: FeatureStore | None = None

    def labels(self, payments: pa.ChunkedArray, known_at: pa.Array) -> pa.Table:
        assert self.store is not None
        return read_label_view(self.store, "fraud_label", payments, known_at)


def _trained_on(world: World, labels: Labels, cutoff: datetime) -> TrainingSet:
    config = TrainingConfig.load().replace(
        **{"data.cutoff": cutoff, "validation.min_rows": 1, "split.min_fraud": 1, "split.valid_days": 2}
    )
    steps, validator = Steps(Console(quiet=True)), Validator(world.settings.home / "data_docs")
    source = FromView(**world.source.__dict__ | {"store": labels.store})
    rows, split = read(config, world.settings, validator, steps, stop_on_failure=True)
    return assemble(source, rows, split, config, world.settings, validator, steps, stop_on_failure=True)


def _label_of(payment: str, of: TrainingSet) -> int:
    return int(of.labels.target[of.payments["event_id"].to_pylist().index(payment)])


def test_training_before_a_correction_sees_the_old_label_and_after_it_the_new_one(
    labels: Labels, tmp_path: Path
) -> None:
    world = make_world(tmp_path / "home", rows=6_000)
    times = dict(
        zip(
            world.payments["event_id"].to_pylist(), world.payments["event_timestamp"].to_pylist(), strict=True
        )
    )
    reported = world.source.statements
    assert reported is not None
    fraud, known = next(
        (payment, at)
        for payment, at in zip(
            reported["payment_id"].to_pylist(), reported["event_timestamp"].to_pylist(), strict=True
        )
        if _at(20) < times[payment] < _at(21) and at < _at(23)
    )
    corrected = _at(26)
    labels.log(pa.concat_tables([reported, label_log([(fraud, False, None, corrected)])]))
    seen = {cutoff: _trained_on(world, labels, cutoff) for cutoff in (corrected - US, corrected)}
    assert known < corrected - timedelta(days=3)
    assert [_label_of(fraud, of) for of in seen.values()] == [1, 0]


def test_labels_come_before_features_so_that_a_missing_labels_log_costs_no_time(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", rows=2_000)
    (world.settings.labels_log / "part-0.parquet").unlink()
    source = replace(world.source, table=pa.table({}))  # features cannot even be asked for
    steps, validator = Steps(Console(quiet=True)), Validator(world.settings.home / "data_docs")
    rows, split = read(TrainingConfig.load(), world.settings, validator, steps, stop_on_failure=True)
    with pytest.raises(LogError, match=r"labels log is empty.*Run the labels flow first"):
        assemble(
            source, rows, split, TrainingConfig.load(), world.settings, validator, steps, stop_on_failure=True
        )


def test_feast_lists_the_label_view(labels: Labels) -> None:
    listed = CliRunner().invoke(cli, ["-f", str(config_file(labels.settings)), "label-views", "list"])
    assert listed.exit_code == 0
    assert ["fraud_label", "payment", "last_write_wins"] in [
        line.split() for line in listed.output.splitlines()
    ]


def test_an_unknown_label_view_is_named_with_those_there_are(labels: Labels) -> None:
    with pytest.raises(
        DefinitionError, match=r"no label view 'truth' in the registry; there are: fraud_label"
    ):
        read_label_view(labels.store, "truth", pa.chunked_array([["p"]]), pa.array([_at(1)]))


def test_a_service_that_holds_the_label_is_refused(labels: Labels) -> None:
    view = labels.store.get_label_view("fraud_label")
    with pytest.raises(
        DefinitionError, match="fraud_label is in the service: the model would learn from the label itself"
    ):
        check_views([view], where="feature service s")


def test_a_feast_service_knows_its_labels_and_the_columns_of_other_services(labels: Labels) -> None:
    labels.log(label_log([REPORT]))
    source = FeastSource(labels.store, "fraud_detection_v1")
    said = source.labels(pa.chunked_array([["p"]]), pa.array([_at(3)], pa.timestamp("us", "UTC")))
    assert said.to_pylist() == [{"is_fraud": True, "fraud_type": "probe"}]
    assert source.columns_of("fraud_detection_v1") == [feature.name for feature in source.features]
    with pytest.raises(DefinitionError, match=r"no feature service 'v9' to compare with.*fraud_detection_v1"):
        source.columns_of("v9")
