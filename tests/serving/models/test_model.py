"""Only what training wrote, unchanged, is loaded; and a bad champion never takes the place of a good one."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.champion_alias import read_alias
from feature_repo.errors import ArtefactError
from serving import bootstrap
from serving.models.champion import Champion
from serving.models.model import load_model
from serving.models.reasons import explain
from tests.kits.served_model import VERSION, own_home, world
from tests.soak import tampered_artefacts
from training import artefact, export
from training.promote import promote


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return own_home(tmp_path) / "models" / "fraud_detection" / VERSION


def edit(place: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = place / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def refused(place: Path, why: str) -> None:
    with pytest.raises(ArtefactError, match=why):
        load_model(place, bootstrap.REPO)


def test_a_loaded_model_repeats_its_golden_predictions(place: Path) -> None:
    model = load_model(place, bootstrap.REPO)
    matrix = world().vectors[list(model.features)].to_numpy(np.float64, na_value=np.nan)
    expected = export.predict((place / "model.onnx").read_bytes(), matrix.astype(np.float32))
    assert np.array_equal(model.predict(matrix), expected)
    assert model.decide(model.review) == "review"
    assert model.decide(np.nextafter(model.review, 0)) == "approve"
    assert model.decide(model.decline) == "decline"


@pytest.mark.parametrize("name", ["model.onnx", "plan.json", "model.ubj"])
def test_a_file_that_was_changed_or_lost_is_refused_by_name(place: Path, name: str) -> None:
    content = (place / name).read_bytes()
    (place / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(place, f"{name} was changed")
    (place / name).unlink()
    refused(place, f"{name} is missing")


def test_a_manifest_that_points_outside_its_directory_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    for name in ("../../../outside", str(tmp_path / "outside")):
        edit(place, lambda m, n=name: m["files"].update({n: digest}))  # type: ignore[misc]
        refused(place, "which is outside")
        edit(place, lambda m, n=name: m["files"].pop(n))  # type: ignore[misc]
    (place / "link").symlink_to(tmp_path / "outside")
    edit(place, lambda m: m["files"].update({"link": digest}))
    refused(place, "which is outside")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m["files"].pop("plan.json"), "plan.json is not in the manifest"),
        (lambda m: m.update(schema_hash="0" * 64), "definitions are not those the model was trained on"),
        (lambda m: m.update(service="fraud_detection_v0"), "the model wants 'fraud_detection_v0'"),
        (lambda m: m["features"].reverse(), "not the model's, in its order"),
        (lambda m: m["golden"]["predictions"].__setitem__(0, 0.123), "golden predictions are off by"),
        (lambda m: m["golden"]["inputs"][0].pop(), "golden predictions do not fit"),
        (lambda m: m["threshold"].update(review=0.9, decline=0.1), "thresholds out of order"),
        (lambda m: m.pop("metrics"), "the manifest lacks something: KeyError"),
        (lambda m: m.update(version="another"), "it is version 'another'"),
        (lambda m: m["onnx"].update(output="label2"), "the model has no output 'label2'"),
    ],
)
def test_a_manifest_that_does_not_fit_its_files_is_refused(
    place: Path, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    edit(place, change)
    refused(place, why)


def test_a_missing_or_malformed_manifest_is_refused(place: Path) -> None:
    (place / "manifest.json").write_text("{")
    refused(place, "no readable manifest")
    (place / "manifest.json").unlink()
    refused(place, "no readable manifest")


def test_on_demand_code_that_changed_since_training_is_refused(place: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(bootstrap.REPO, repo, ignore=shutil.ignore_patterns("__pycache__"))
    file = repo / "on_demand" / "functions" / "payment_itself.py"
    file.write_text(file.read_text().replace("b - a", "b + a"))
    with pytest.raises(ArtefactError, match=r"does not fit the installed feature repo.*payment_itself"):
        load_model(place, repo)


@pytest.mark.parametrize("alias", ["../elsewhere", "/etc", "", "a\nb", ".."])
def test_an_alias_that_names_no_version_is_refused(place: Path, alias: str) -> None:
    (place.parent / "champion").write_text(alias)
    with pytest.raises(ArtefactError, match="is not a version"):
        read_alias(place.parent)


def test_a_newly_promoted_model_is_followed_and_a_bad_one_is_not(place: Path) -> None:
    folder = place.parent
    champion = Champion(folder, bootstrap.REPO, threads=1)
    champion.refresh()
    assert champion.current is not None
    assert champion.current.version == VERSION
    second = "20261123T000000Z-00000002"
    written = world().write_model(folder, second)
    champion.refresh()
    assert champion.current.version == second
    assert champion.problem == ""
    artefact.promote(folder, VERSION)
    (place / "model.onnx").write_bytes(b"")
    champion.refresh()
    assert champion.current.version == second  # goes on
    assert "model.onnx was changed" in champion.problem
    shutil.rmtree(written)  # what is in use needs no files
    assert champion.current.predict(champion.current.typical[None]).shape == (1,)
    (folder / "champion").write_text(second)
    champion.refresh()
    assert champion.problem == ""


def test_an_effect_is_the_change_in_log_odds_and_a_typical_payment_has_none(place: Path) -> None:
    model = load_model(place, bootstrap.REPO)
    assert explain(model, model.typical, 5) == []
    vector = model.typical.copy()
    at = model.features.index("payment_amount")
    vector[at] = 50_000.0
    (reason,) = explain(model, vector, 5)
    odds = [float(np.log(p / (1 - p))) for p in model.predict(np.stack([model.typical, vector]))]
    assert reason["feature"] == "payment_amount"
    assert reason["effect"] == pytest.approx(odds[1] - odds[0], abs=1e-5)
    assert explain(model, vector, 0) == []


def test_a_typical_payment_is_the_median_of_training_if_the_manifest_has_it(place: Path) -> None:
    features = load_model(place, bootstrap.REPO).features
    stated: dict[str, float | None] = {name: float(i) for i, name in enumerate(features)}
    stated[features[0]] = None
    edit(place, lambda manifest: manifest.update(typical=stated))
    typical = load_model(place, bootstrap.REPO).typical
    assert np.isnan(typical[0])
    assert typical[1:].tolist() == list(range(1, len(features)))
    edit(place, lambda manifest: manifest["typical"].pop(features[1]))
    refused(place, f"the manifest lacks something.*{features[1]}")


@pytest.mark.parametrize("seed", range(2 * len(tampered_artefacts.KINDS)))
def test_an_artefact_tampered_with_after_it_was_promoted_is_refused(seed: int) -> None:
    tampered_artefacts.trial(seed)


def test_a_champion_that_was_repaired_is_loaded(place: Path) -> None:
    champion = Champion(place.parent, bootstrap.REPO, threads=1)
    content = (place / "model.onnx").read_bytes()
    (place / "model.onnx").unlink()
    champion.refresh()
    assert (champion.current, champion.problem[:22]) == (None, "model.onnx is missing ")
    (place / "model.onnx").write_bytes(content)
    champion.refresh()
    assert champion.current is not None
    assert champion.problem == ""


def test_a_version_is_promoted_by_name_and_one_that_was_changed_is_not(place: Path) -> None:
    folder = place.parent
    world().write_model(folder, "20261123T000000Z-00000002", rounds=2)
    assert promote(folder, VERSION) == "20261123T000000Z-00000002"
    assert read_alias(folder).version == VERSION
    with pytest.raises(ArtefactError, match=f"there is no version 'x'; there are: {VERSION}, 2026"):
        promote(folder, "x")
    (place / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"model\.onnx was changed"):
        promote(folder, VERSION)


def test_a_fallback_that_needs_features_of_the_store_is_refused(place: Path) -> None:
    edit(place, lambda m: m["fallback"]["features"].__setitem__(0, "account_payment_count_1h"))
    refused(place, "the fallback needs account_payment_count_1h, which the payment alone does not give")


def test_a_fallback_must_repeat_its_golden_predictions_too(place: Path) -> None:
    edit(place, lambda m: m["fallback"]["golden"]["predictions"].__setitem__(0, 0.123))
    refused(place, r"golden predictions are off by .*fallback\.onnx")
