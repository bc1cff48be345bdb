"""One run over a small world, from its logs to a verified artefact; and what stops a run."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from rich.console import Console

from feature_repo.errors import ArtefactError, DefinitionError, SettingsError, ValidationError
from tests.training.test_training_world import START, TableSource, World, make_world
from training import artefact
from training.feature_matrix import Feature
from training.labels import Window
from training.manifest import typical as typical_of
from training.pipeline import TrainingResult, run
from training.progress import Steps
from training.settings import Rule, TrainingConfig, ValidationSettings
from training.split import time_split
from training.validation import Validator, training_suite

NOW = datetime(2026, 11, 22, 4, 19, 55, tzinfo=UTC)
MONTH = time_split(
    Window(START, START + timedelta(days=30), START + timedelta(days=30)),
    label_delay=timedelta(days=3),
    valid=timedelta(days=4),
    test=timedelta(days=5),
)


def _config() -> TrainingConfig:
    config = TrainingConfig.load().replace(
        **{"model.rounds": 30, "model.threads": 1, "report.bootstrap": 30, "split.min_fraud": 3}
    )
    rules = (Rule(feature="account_balance_share", at_least=0.8), Rule(feature="gone", at_least=1.0))
    return config.model_copy(update={"rules": rules})


def _run(world: World, config: TrainingConfig | None = None, **changes: Any) -> TrainingResult:
    arguments = {"now": NOW, "steps": Steps(Console(quiet=True)), **changes}
    return run(arguments.pop("source", world.source), config or _config(), world.settings, **arguments)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("training") / "home", rows=9_000)


@pytest.fixture(scope="module")
def result(world: World) -> TrainingResult:
    return _run(world)


@pytest.fixture(scope="module")
def manifest(result: TrainingResult) -> dict[str, Any]:
    return artefact.verify(result.path)


def test_a_run_makes_the_champion(world: World, result: TrainingResult) -> None:
    assert result.version.startswith("20261122T041955Z-")
    assert artefact.champion(world.settings.models / "fraud_detection") == result.path
    assert result.metrics["average_precision"] > 0.5
    assert result.validation_success


def test_the_manifest_holds_every_file_and_no_file_is_a_pickle(
    result: TrainingResult, manifest: dict[str, Any]
) -> None:
    names = {path.relative_to(result.path).as_posix() for path in result.path.rglob("*") if path.is_file()}
    assert names == {*manifest["files"], "manifest.json"}
    assert {"model.ubj", "model.onnx", "plan.json", "report.html", "plots/precision_recall.svg"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_the_manifest_says_what_the_contract_asks(manifest: dict[str, Any], world: World) -> None:
    assert {
        "name",
        "version",
        "service",
        "schema_hash",
        "features",
        "threshold",
        "cost",
        "data",
        "metrics",
    } <= set(manifest)
    assert manifest["features"] == [feature.name for feature in world.source.features]
    assert set(manifest["threshold"]) == {"review", "decline"}
    assert manifest["data"]["label_delay_days"] == 3
    assert set(manifest["metrics"]["by_fraud_type"]) == {"probe", "spread", "drain"}


def test_golden_predictions_come_out_of_the_stored_model(
    result: TrainingResult, manifest: dict[str, Any]
) -> None:
    session = ort.InferenceSession(result.path / "model.onnx")
    inputs = np.array(manifest["golden"]["inputs"], np.float32)
    assert [(i.name, i.type, i.shape[1]) for i in session.get_inputs()] == [("features", "tensor(float)", 12)]
    (probabilities,) = session.run(["probabilities"], {"features": inputs})
    np.testing.assert_allclose(probabilities[:, 1], manifest["golden"]["predictions"], atol=1e-6)


def test_the_report_loads_nothing_from_anywhere(result: TrainingResult) -> None:
    page = result.report.read_text(encoding="utf-8")
    assert page.count("<svg") == 7
    assert "src=" not in page
    assert "@import" not in page
    assert "<link" not in page


def test_the_report_names_rules_it_could_not_use(result: TrainingResult) -> None:
    assert "<code>gone</code>" in result.report.read_text(encoding="utf-8")


def test_the_manifest_holds_the_middle_of_each_feature_of_the_train_days(
    world: World, manifest: dict[str, Any]
) -> None:
    typical = manifest["typical"]
    assert list(typical) == manifest["features"]
    assert typical["account_amount_count_1h"] == 0.0
    assert 0.05 < typical["account_balance_share"] < 0.2


def test_the_middle_of_a_feature_most_rows_lack_is_missing() -> None:
    nan = np.nan
    rows = np.array([[1, nan, 3], [2, nan, nan], [9, 5, nan], [nan, nan, 1]], np.float32)
    assert typical_of(rows) == [2.0, None, 2.0]


@pytest.fixture(scope="module")
def compared(world: World) -> TrainingResult:
    """The same run as `result`, an hour later, and the same trees on two smaller services."""
    config = _config().replace(compare_services=("and_more", "payments_alone", "fraud_detection_v1"))
    return _run(world, config, promote=False, now=NOW + timedelta(hours=2))


def test_smaller_services_are_compared_from_the_smallest_on(
    result: TrainingResult, compared: TrainingResult
) -> None:
    small, middle, full = compared.metrics["services"]
    assert [(s["service"], s["features"]) for s in (small, middle, full)] == [
        ("payments_alone", 3),
        ("and_more", 4),
        ("fraud_detection_v1", 12),
    ]
    assert result.metrics["services"] == []
    assert (
        full["average_precision"]
        == compared.metrics["average_precision"]
        == result.metrics["average_precision"]
    )
    assert full["intervals"] == compared.metrics["intervals"]
    assert full["cost"] == compared.metrics["outcome"]["cost"]


def test_a_feature_that_tells_fraud_is_seen_to_gain(compared: TrainingResult) -> None:
    small, middle, full = compared.metrics["services"]
    assert small["gain"] is None
    assert middle["gain"]["over"] == "payments_alone"
    assert middle["gain"]["average_precision"]["low"] > 0  # the balance, which frauds drain
    assert middle["gain"]["average_precision"]["value"] == pytest.approx(
        middle["average_precision"] - small["average_precision"]
    )
    assert middle["gain"]["saved"]["value"] == pytest.approx(small["cost"] - middle["cost"])
    assert full["gain"]["over"] == "and_more"
    gained = full["gain"]["average_precision"]
    assert gained["low"] <= gained["value"] <= gained["high"]  # noise, for better or worse


def test_the_report_shows_what_each_service_brings(compared: TrainingResult) -> None:
    page = compared.report.read_text(encoding="utf-8")
    assert page.count("<svg") == 9
    assert "What the features of each service add" in page
    assert "The features that and_more adds to payments_alone raise average precision by" in page
    assert "plots/services.svg" in artefact.verify(compared.path)["files"]


def test_a_service_with_other_features_cannot_be_compared(world: World) -> None:
    source = replace(world.source, services={"wider": ["noise_0", "moon", "tide"]})
    with pytest.raises(
        DefinitionError, match=r"wider has moon, tide, which fraud_detection_v1 does not have"
    ):
        _run(world, _config().replace(compare_services=("wider",)), source=source)


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (lambda a: (a / "model.onnx").write_bytes(b"x"), "model.onnx was changed"),
        (lambda a: (a / "plan.json").unlink(), "plan.json is missing"),
        (lambda a: (a / "extra.bin").write_bytes(b"x"), "extra.bin is not in the manifest"),
        (lambda a: (a / "manifest.json").write_text("{"), "no readable manifest"),
    ],
)
def test_a_tampered_file_is_noticed(tmp_path: Path, tamper: Any, told: str) -> None:
    place = artefact.write(tmp_path, "v1", {"name": "m"}, _two_files)
    tamper(place)
    with pytest.raises(ArtefactError, match=told):
        artefact.verify(place)
    with pytest.raises(ArtefactError, match=told):
        artefact.promote(tmp_path, "v1")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails(building: Path) -> None:
        _two_files(building)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        artefact.write(tmp_path, "v1", {}, fails)
    assert list(tmp_path.iterdir()) == []


def test_promotion_replaces_the_alias_and_a_version_is_written_once(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        artefact.write(tmp_path, version, {}, _two_files)
        artefact.promote(tmp_path, version)
    assert artefact.champion(tmp_path).name == "v2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["champion", "v1", "v2"]
    with pytest.raises(ArtefactError, match="exists already"):
        artefact.write(tmp_path, "v2", {}, _two_files)


def _two_files(building: Path) -> None:
    (building / "model.onnx").write_bytes(b"trees")
    (building / "plan.json").write_text("{}")


def _spoilt(world: World, **values: float | None) -> TableSource:
    """Every seventh value of the named features replaced."""
    table = world.source.table
    for name, value in values.items():
        column = table[name].to_pylist()
        column[::7] = [value] * len(column[::7])
        kind = table.schema.field(name).type
        table = table.set_column(table.column_names.index(name), name, pa.array(column, kind))
    return replace(world.source, table=table)


def test_validation_rejects_a_null_in_a_column_that_is_never_null_and_names_it(world: World) -> None:
    told = r"training set: account_amount_count_1h: expected values to not be null, saw \d+ of"
    with pytest.raises(ValidationError, match=told):
        _run(world, source=_spoilt(world, account_amount_count_1h=None))
    assert (world.settings.home / "data_docs" / "index.html").exists()


def test_without_validation_training_runs_and_reports_what_failed(
    world: World, result: TrainingResult
) -> None:
    bad = _spoilt(world, account_amount_count_1h=-1)
    forced = _run(world, source=bad, stop_on_failure=False, promote=False, now=NOW + timedelta(hours=1))
    assert not forced.validation_success
    (failure,) = artefact.verify(forced.path)["validation"]["failures"]
    assert (
        failure == "training set: account_amount_count_1h: expected min to be between (min value 0.0), saw -1"
    )
    assert "1 failed" in forced.report.read_text(encoding="utf-8")
    assert artefact.champion(world.settings.models / "fraud_detection") == result.path


def test_validation_names_an_infinite_feature(tmp_path: Path) -> None:
    frame = _small([float("inf"), *[1.0] * 9], [1] * 10).to_pandas()
    validator = Validator(tmp_path / "docs")
    suite = training_suite([Feature("x", "DOUBLE")], MONTH, ValidationSettings(min_rows=1, max_fraud_share=1))
    verdict = validator.check("set", frame, suite)
    assert [failure.column for failure in verdict.failures] == ["x"]


def test_validation_names_a_batch_with_too_little_fraud(tmp_path: Path) -> None:
    validator = Validator(tmp_path / "docs")
    suite = training_suite([Feature("x", "DOUBLE")], MONTH, ValidationSettings(min_rows=1))
    verdict = validator.check("set", _small([1.0] * 10, [0] * 10).to_pandas(), suite)
    assert [failure.column for failure in verdict.failures] == ["target"]
    assert "saw 0.0" in str(verdict.failures[0])


def test_validation_allows_an_unknown_customer_but_not_only_unknown_customers(tmp_path: Path) -> None:
    features = [Feature("x", "DOUBLE", joined=True)]
    settings = ValidationSettings(min_rows=1, max_fraud_share=1)
    validator = Validator(tmp_path / "docs")
    known = _small([1.0, *[None] * 9], [1] * 10).to_pandas()
    assert validator.check("some", known, training_suite(features, MONTH, settings)).success
    unknown = _small([None] * 10, [1] * 10).to_pandas()
    suite = training_suite(features, MONTH, settings, all_missing=frozenset({"x"}))
    told = [str(failure) for failure in validator.check("none", unknown, suite).failures]
    assert told == ["none: x: expected values to not be null (mostly 0.02), saw 10 of 10 otherwise"]
    allowed = settings.model_copy(update={"max_missing_of": {"x": 1.0}})
    suite = training_suite(features, MONTH, allowed, all_missing=frozenset({"x"}))
    assert validator.check("wanted", unknown, suite).success


def test_a_join_that_broke_is_found_in_the_log_before_any_feature_is_computed(world: World) -> None:
    source = replace(world.source, joined_columns=["customer_segment"])
    told = r"payments log: customer_segment: expected values to not be null \(mostly 0.02\), saw (\d+) of \1 otherwise"
    with pytest.raises(ValidationError, match=told):
        _run(world, source=source)
    fine = _config().replace(**{"validation.max_missing_of": {"customer_segment": 1.0}})
    assert _run(world, fine, source=source, promote=False, now=NOW + timedelta(hours=3)).validation_success


def _small(x: list[float | None], target: list[int]) -> pa.Table:
    """Ten payments, one a day, from the first of the month."""
    times = [START + timedelta(days=i) for i in range(10)]
    return pa.table(
        {
            "event_id": [f"p{i}" for i in range(10)],
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "target": target,
            "x": pa.array(x, pa.float64()),
        }
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model": {"trees": 3}}, "model.trees: Extra inputs"),
        ({"split": {"test_days": 0}}, "split.test_days: Input should be greater than 0"),
        ({"validation": {"min_fraud_share": 0.5}}, "above max_fraud_share"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        TrainingConfig.checked(values, where="test")


def test_a_fallback_model_on_the_payment_alone_is_trained_too(
    world: World,
) -> None:
    alone = ("account_balance_share", "noise_0")
    features = [replace(feature, of_request=feature.name in alone) for feature in world.source.features]
    made = _run(
        world, source=replace(world.source, features=features), promote=False, now=NOW + timedelta(hours=7)
    )
    manifest = artefact.verify(made.path)
    said = manifest["fallback"]
    assert said["features"] == list(alone)
    assert said["file"] in manifest["files"]
    assert 0 <= said["threshold"]["review"] <= said["threshold"]["decline"]
    assert 0.1 < said["metrics"]["average_precision"] < made.metrics["average_precision"]
    session = ort.InferenceSession(made.path / said["file"])
    inputs = np.array(said["golden"]["inputs"], np.float32)
    (probabilities,) = session.run([said["onnx"]["output"]], {said["onnx"]["input"]: inputs})
    np.testing.assert_allclose(probabilities[:, 1], said["golden"]["predictions"], atol=1e-6)
    assert "fallback model (payment only)" in made.report.read_text(encoding="utf-8")


def test_a_service_without_features_of_the_payment_alone_has_no_fallback(manifest: dict[str, Any]) -> None:
    assert "fallback" not in manifest
    assert "fallback.onnx" not in manifest["files"]


def test_the_former_name_of_the_validation_section_still_works() -> None:
    former = TrainingConfig.checked({"gate": {"min_rows": 5}}, where="test")
    assert former.validation.min_rows == 5
    assert former == TrainingConfig.checked({"validation": {"min_rows": 5}}, where="test")
