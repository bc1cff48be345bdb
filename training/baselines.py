"""Baselines that the model is compared with: a logistic regression on the same features, and hand-written rules.

Both give one score per row; higher is more suspicious. They are trained and measured on the same days as the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from training.feature_matrix import Matrix
from training.settings import Rule

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Logistic:
    """A logistic regression on scaled logarithms.

    A null becomes the median, and an indicator column says that it was null.
    """

    middle: Floats
    scale: Floats
    gaps: npt.NDArray[np.bool_]
    model: LogisticRegression

    def predict(self, matrix: Matrix) -> Floats:
        """Return the probability of fraud, float64[rows], of a matrix float32[rows, features]."""
        return np.asarray(
            self.model.predict_proba(_prepare(matrix, self.middle, self.scale, self.gaps))[:, 1]
        )


def fit_logistic(train: Matrix, target: npt.NDArray[np.uint8], *, threads: int, seed: int) -> Logistic:
    """Fit on `train` (float32[rows, features]) and `target` (uint8[rows]).

    Classes are balanced, because only the ranking by score is compared.
    """
    logs = _logs(train)
    missing = np.isnan(logs)
    gaps = np.asarray(missing.any(axis=0) & ~missing.all(axis=0))
    logs[:, missing.all(axis=0)] = 0.0
    middle = np.nanmedian(logs, axis=0)
    scale = np.nanstd(logs, axis=0)
    scale[scale == 0] = 1.0
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=200, tol=1e-3, random_state=seed)
    with threadpool_limits(threads):
        model.fit(_prepare(train, middle, scale, gaps), target)
    return Logistic(middle, scale, gaps, model)


def usable_rules(names: Sequence[str], rules: Sequence[Rule]) -> tuple[list[Rule], list[Rule]]:
    """Return the rules whose feature exists, and the other rules."""
    return [r for r in rules if r.feature in names], [r for r in rules if r.feature not in names]


def apply_rules(matrix: Matrix, names: Sequence[str], rules: Sequence[Rule]) -> Floats:
    """Return per row the points of the rules that apply, as a share of all points, float64[rows]; nulls never apply."""
    points = np.zeros(len(matrix))
    for rule in rules:
        points += rule.points * (matrix[:, names.index(rule.feature)] >= rule.at_least)
    return points / sum(rule.points for rule in rules)


def _logs(matrix: Matrix) -> Floats:
    wide = matrix.astype(np.float64)
    return np.asarray(np.sign(wide) * np.log1p(np.abs(wide)))


def _prepare(matrix: Matrix, middle: Floats, scale: Floats, gaps: npt.NDArray[np.bool_]) -> Floats:
    logs = _logs(matrix)
    missing = np.isnan(logs)
    filled = np.clip((np.where(missing, middle, logs) - middle) / scale, -10, 10)
    return np.hstack([filled, missing[:, gaps]])
