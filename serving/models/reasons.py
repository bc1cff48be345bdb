"""Why a score is high: per feature, how many log-odds its value adds compared to a typical payment.

The effect of a feature is the mean of two questions to the model: how much lower is the score if this payment had the
typical value, and how much higher is the score of a typical payment that has only this value. The first misses features
that repeat another one, the second those that matter only together; their mean is the first and the last step of the
Shapley value (Shapley 1953; Lundberg and Lee 2017, arXiv:1705.07874), for 2 n rows in one call of the model. Effects do
not add up to the score.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from serving.models.onnx_trees import Floats, Matrix, Trees

_LEAST: Final = 1e-7
"""Scores are clipped this far from 0 and 1, where log-odds are infinite."""


def explain(model: Trees, vector: Matrix, most: int) -> list[dict[str, Any]]:
    """Return the features that raise the score of `vector` (float32 [features]), strongest first, at most `most`.

    Each is in the shape of `responses.Reason`.
    """
    if most == 0:
        return []
    typical = model.typical
    differs = np.flatnonzero(~((vector == typical) | (np.isnan(vector) & np.isnan(typical))))
    n = len(differs)
    rows = np.repeat(np.stack([vector, typical]), [n + 1, n + 1], axis=0)
    places = np.arange(n)
    rows[places, differs] = typical[differs]
    rows[n + 1 + places, differs] = vector[differs]
    odds = _log_odds(model.predict(rows))
    effects = ((odds[n] - odds[:n]) + (odds[n + 1 : -1] - odds[-1])) / 2
    strongest = [i for i in np.argsort(-effects, kind="stable")[:most] if effects[i] > 0]
    return [
        {
            "feature": model.features[differs[i]],
            "value": _number(vector[differs[i]]),
            "typical": _number(typical[differs[i]]),
            "effect": round(float(effects[i]), 6),
        }
        for i in strongest
    ]


def _log_odds(score: Floats) -> Floats:
    kept = np.clip(score, _LEAST, 1 - _LEAST)
    odds: Floats = np.log(kept / (1 - kept))
    return odds


def _number(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None
