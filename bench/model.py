"""`model`: one row through the champion as the scorer computes it, against `Booster.inplace_predict` with one thread.

python -m bench.model [--rounds 5]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import xgboost as xgb

from bench.harness import ROUNDS, Report, Target, console
from bench.home import prepared
from serving.bootstrap import REPO
from serving.models.model import load_model
from training.export import TOLERANCE

CALLS = 2_000
REFERENCE_CALLS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    built = prepared()
    model = load_model(built.artefact, REPO, threads=1)
    booster = xgb.Booster(model_file=str(built.artefact / "model.ubj"))
    booster.set_param({"nthread": 1})
    rows = np.load(built.artefact / "rows.npy")
    worst = float(np.abs(model.predict(rows) - booster.inplace_predict(rows)).max())
    alone = np.array([model.predict(row[None]) for row in rows[:200]]).ravel()
    assert np.array_equal(alone, model.predict(rows[:200])), "one by one the model says something else"
    assert worst <= TOLERANCE, f"the two differ by {worst:.2e}"
    vectors = [row[None].astype(np.float64) for row in rows]  # what the reader gives
    asked = [row[None] for row in rows]

    ours, theirs = [], []
    for number in range(rounds):
        ours.append(microseconds(model.predict, vectors[:CALLS]))
        theirs.append(microseconds(booster.inplace_predict, asked[:REFERENCE_CALLS]))
        console.print(f"round {number + 1}: {ours[-1]:.1f} us, inplace_predict {theirs[-1]:.1f} us of CPU")
    report = Report("model")
    report.add(
        "model",
        ours,
        "us CPU a row",
        Target("ratio", "at least", 5.0),
        reference="Booster.inplace_predict, 1 thread",
        references=theirs,
        less_is_better=True,
        note=f"{len(booster.get_dump())} trees, {len(model.features)} features; largest difference on {len(rows):,} rows {worst:.1e}",
    )
    report.finish()


def microseconds(predict: Callable[[np.ndarray], object], rows: list[np.ndarray]) -> float:
    """CPU of this process per row, in microseconds."""
    for row in rows[:20]:
        predict(row)
    began = time.process_time()
    for row in rows:
        predict(row)
    return (time.process_time() - began) / len(rows) * 1e6


if __name__ == "__main__":
    main()
