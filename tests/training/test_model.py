"""Metrics against scikit-learn, the export against XGBoost, the same seed against itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from feature_repo.errors import ArtefactError
from training import evaluate, export, model
from training.baselines import apply_rules, fit_logistic, usable_rules
from training.settings import ModelSettings, Rule

QUICK = ModelSettings(rounds=25, patience=10, threads=1, weighting=("none",))


def _data(rows: int = 1500, columns: int = 6, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    matrix = rng.lognormal(size=(rows, columns)).astype(np.float32)
    matrix[rng.random((rows, columns)) < 0.15] = np.nan
    odds = np.nan_to_num(matrix[:, 0]) * 1.5 + 2.0 * (np.nan_to_num(matrix[:, 1]) > 2) - 5.0
    return matrix, (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.uint8)


def _fit(settings: ModelSettings = QUICK) -> tuple[model.Trained, np.ndarray, np.ndarray]:
    matrix, target = _data()
    names = [f"account_amount_sum_{i}h" for i in range(matrix.shape[1])]
    return (
        model.fit(matrix[:1000], target[:1000], matrix[1000:], target[1000:], names, settings),
        matrix,
        target,
    )


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=40).filter(
        lambda rows: {r[0] for r in rows if r[2]} == {True, False}
    )
)
def test_metrics_equal_scikit_learns_with_ties_and_weights(rows: list[tuple[bool, int, int]]) -> None:
    target = np.array([r[0] for r in rows], np.uint8)
    score, weight = np.array([float(r[1]) for r in rows]), np.array([float(r[2]) for r in rows])
    ap, auc, recall = evaluate.Ranking(target, score).metrics(weight)
    assert ap == pytest.approx(average_precision_score(target, score, sample_weight=weight))
    assert auc == pytest.approx(roc_auc_score(target, score, sample_weight=weight))
    fpr, tpr, _ = roc_curve(target, score, sample_weight=weight, drop_intermediate=False)
    assert recall == pytest.approx(tpr[fpr <= evaluate.FPR].max())


def test_interval_contains_the_value_and_is_wider_when_accounts_hold_many_payments() -> None:
    rng = np.random.default_rng(0)
    target = np.repeat((rng.random(200) < 0.2).astype(np.uint8), 10)
    score = np.repeat(rng.normal(size=200), 10) + target
    ranking = {"m": evaluate.Ranking(target, score)}
    settings = {"resamples": 200, "confidence": 0.95, "seed": 1}
    alone = evaluate.estimate(ranking, np.arange(2000), **settings)[0]["m"]["roc_auc"]
    grouped = evaluate.estimate(ranking, np.repeat(np.arange(200), 10), **settings)[0]["m"]["roc_auc"]
    assert alone.low < alone.value < alone.high
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_each_kind_of_fraud_is_held_against_all_honest_payments() -> None:
    target = np.array([0, 0, 1, 1, 1], np.uint8)
    kind = np.array([None, None, "probe", "drain", None], object)
    score = np.array([0.2, 0.4, 0.9, 0.3, 0.1])
    result = evaluate.by_fraud_type(target, kind, score, np.arange(5), resamples=20, confidence=0.9, seed=1)
    assert {name: (n, e["roc_auc"].value) for name, (n, e) in result.items()} == {
        "probe": (1, 1.0),
        "drain": (1, 0.5),
    }


def test_the_same_seed_grows_the_same_trees() -> None:
    settings = QUICK.model_copy(update={"subsample": 0.7, "colsample": 0.5})
    assert _fit(settings)[0].booster.save_raw("ubj") == _fit(settings)[0].booster.save_raw("ubj")


def test_every_weighting_is_tried_and_the_best_on_validation_kept() -> None:
    trained, _, _ = _fit(QUICK.model_copy(update={"weighting": ("none", "sqrt", "balanced")}))
    assert [c.weighting for c in trained.candidates] == ["none", "sqrt", "balanced"]
    assert trained.chosen.average_precision == max(c.average_precision for c in trained.candidates)
    assert trained.booster.num_boosted_rounds() == trained.chosen.trees


def test_onnx_gives_the_probabilities_of_xgboost_with_missing_values() -> None:
    trained, matrix, _ = _fit()
    exported = export.export(trained.booster, matrix)
    assert exported.max_difference <= export.TOLERANCE
    one_by_one = [export.predict(exported.onnx, row[None, :])[0] for row in matrix[:5]]
    np.testing.assert_allclose(one_by_one, trained.predict(matrix[:5]), atol=export.TOLERANCE)


def test_onnx_agrees_at_and_beside_every_split_value() -> None:
    trained, matrix, _ = _fit()
    frame = trained.booster.trees_to_dataframe()
    splits = frame["Split"].dropna().to_numpy(np.float32)
    beside = np.concatenate(
        [splits, np.nextafter(splits, np.float32(np.inf)), np.nextafter(splits, np.float32(-np.inf))]
    )
    rows = np.repeat(beside[:, None], matrix.shape[1], axis=1)
    assert export.export(trained.booster, rows).max_difference <= export.TOLERANCE


def test_an_export_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, matrix, _ = _fit()
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(ArtefactError, match="differs from XGBoost"):
        export.export(trained.booster, matrix)


def test_golden_rows_span_the_scores_and_missing_is_null() -> None:
    trained, matrix, _ = _fit()
    onnx = export.export(trained.booster, matrix).onnx
    golden = export.golden(onnx, matrix, trained.predict(matrix), count=8)
    assert len(golden["inputs"]) == len(golden["predictions"]) == 8
    assert golden["predictions"] == sorted(golden["predictions"])
    assert any(value is None for row in golden["inputs"] for value in row)


def test_logistic_regression_learns_through_missing_and_empty_columns() -> None:
    matrix, target = _data()
    matrix[:, 5] = np.nan
    score = fit_logistic(matrix[:1000], target[:1000], threads=1, seed=1).predict(matrix[1000:])
    assert evaluate.Ranking(target[1000:], score).metrics()[1] > 0.7


def test_a_rule_on_an_absent_feature_is_reported_and_a_missing_value_fires_nothing() -> None:
    rules = [Rule(feature="a", at_least=2.0, points=3), Rule(feature="gone", at_least=0.0)]
    usable, unused = usable_rules(["a"], rules)
    assert [rule.feature for rule in unused] == ["gone"]
    matrix = np.array([[1.0], [2.0], [np.nan]], np.float32)
    assert apply_rules(matrix, ["a"], usable).tolist() == [0.0, 1.0, 0.0]
