"""The chosen pair of thresholds is held against every pair there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.settings import CostSettings
from training.threshold import Thresholds, apply, choose

PAYMENTS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 10), st.floats(0, 500, allow_nan=False)), min_size=1, max_size=25
)
COSTS = st.builds(
    CostSettings,
    review=st.floats(0, 30),
    declined_good=st.floats(0, 60),
    declined_good_share=st.floats(0, 1),
    missed_fraud=st.floats(0, 60),
    missed_fraud_share=st.floats(0, 2),
    reviews_per_day=st.integers(0, 30).map(float),
)


def _columns(payments: list[tuple[bool, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target = np.array([p[0] for p in payments], np.uint8)
    return target, np.array([p[1] / 10 for p in payments]), np.array([p[2] for p in payments])


@settings(deadline=None, max_examples=100)
@given(PAYMENTS, COSTS)
def test_threshold_minimises_cost_among_all_pairs_within_capacity(
    payments: list[tuple[bool, int, float]], cost: CostSettings
) -> None:
    target, score, amount = _columns(payments)
    chosen = apply(target, score, amount, cost, choose(target, score, amount, cost, days=1.0))
    grid = [*np.unique(score), 2.0]
    outcomes = [
        apply(target, score, amount, cost, Thresholds(float(r), float(d)))
        for r in grid
        for d in grid
        if r <= d
    ]
    affordable = [o for o in outcomes if o.reviewed <= cost.reviews_per_day]
    assert chosen.reviewed <= cost.reviews_per_day
    assert chosen.cost == pytest.approx(min(o.cost for o in affordable), abs=1e-6)


@settings(deadline=None, max_examples=100)
@given(PAYMENTS, COSTS)
def test_every_payment_gets_exactly_one_decision_and_review_starts_below_decline(
    payments: list[tuple[bool, int, float]], cost: CostSettings
) -> None:
    target, score, amount = _columns(payments)
    thresholds = choose(target, score, amount, cost, days=1.0)
    outcome = apply(target, score, amount, cost, thresholds)
    assert thresholds.review <= thresholds.decline
    assert outcome.declined + outcome.reviewed <= outcome.payments
    assert outcome.cost <= outcome.cost_of_approving_all + 1e-6


def test_thresholds_lie_between_scores_so_that_rounding_moves_no_payment() -> None:
    target, score = np.array([0, 0, 1, 1], np.uint8), np.array([0.1, 0.2, 0.8, 0.9])
    cost = CostSettings(review=1, declined_good=5, missed_fraud=50, reviews_per_day=0)
    thresholds = choose(target, score, np.full(4, 10.0), cost, days=1.0)
    assert thresholds.decline == pytest.approx(0.5)
    assert thresholds.review == thresholds.decline


def test_nothing_is_declined_when_declining_costs_more_than_fraud() -> None:
    cost = CostSettings(
        review=100, declined_good=1000, missed_fraud=0, missed_fraud_share=0.1, reviews_per_day=5
    )
    target, score = np.array([0, 1, 0], np.uint8), np.array([0.5, 0.5, 1.0])
    outcome = apply(
        target, score, np.full(3, 10.0), cost, choose(target, score, np.full(3, 10.0), cost, days=1.0)
    )
    assert (outcome.declined, outcome.reviewed) == (0, 0)


def test_caught_share_counts_declined_and_reviewed_amounts() -> None:
    target, amount = np.array([1, 1, 1, 0], np.uint8), np.array([10.0, 20.0, 70.0, 5.0])
    outcome = apply(target, np.array([0.9, 0.6, 0.1, 0.0]), amount, CostSettings(), Thresholds(0.5, 0.8))
    assert outcome.caught_share == pytest.approx(0.3)
