"""What the benchmarks report, not how fast anything is."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pyarrow.compute as pc
import pytest

from bench import harness, w1
from bench.harness import Report, Target, percentile
from bench.run import BENCHMARKS

FIELDS = {"name", "figure", "unit", "reference", "reference_figure", "ratio", "rounds", "target", "met"}
TWENTY = Target("ratio", "at least", 20)


def test_a_ratio_is_how_many_times_better_whether_more_or_less_is_better() -> None:
    report = Report("made_up")
    more = report.add("rate", [100, 200, 300], "events/s", TWENTY, reference="slow", references=[10, 10, 10])
    less = report.add(
        "wait", [1, 2, 3], "ms", TWENTY, reference="slow", references=[60, 60, 60], less_is_better=True
    )
    assert (more.ratio, more.met) == (20, True)
    assert (less.ratio, less.met) == (30, True)


def test_a_round_is_compared_with_the_reference_beside_it_and_not_with_another() -> None:
    report = Report("made_up")
    result = report.add("rate", [100, 10, 100], "1/s", TWENTY, reference="slow", references=[10, 1, 2])
    assert result.ratio == 10, "the median of 10, 10 and 50, while the medians themselves would give 50"
    assert not result.met


def test_a_target_without_a_figure_to_hold_against_it_is_missed() -> None:
    assert not Target("ratio", "at least", 1).met(figure=5.0, ratio=None)
    assert Target("figure", "at most", 5).met(figure=5.0, ratio=None)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(v) for v in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile([7.0], 99) == 7.0


def test_results_have_all_required_fields(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(harness, "PARTS", tmp_path)
    report = Report("made_up")
    report.add("rate", [1.0], "1/s", TWENTY)
    report.finish()
    (written,) = json.loads((tmp_path / "made_up.json").read_text())
    assert set(written) >= FIELDS
    assert written == asdict(report.results[0])


@pytest.mark.skipif(
    not (harness.RESULTS / "latest.json").exists(), reason="`make bench` has not been run in this clone"
)
def test_the_last_results_name_every_benchmark() -> None:
    latest = json.loads((harness.RESULTS / "latest.json").read_text())
    assert {name for names in BENCHMARKS.values() for name in names} <= {r["name"] for r in latest}
    for result in latest:
        assert set(result) >= FIELDS
        if result["ratio"] is not None:
            assert result["reference"]
            assert result["reference_figure"] > 0


def test_w1_matches_its_description() -> None:
    payments = w1.payments(50_000)
    assert payments.equals(w1.payments(50_000)), "the same seed gives the same payments"
    times = payments["event_timestamp"].cast("int64").to_numpy()
    assert (np.diff(times) > 0).all(), "times are all different, and in order"
    busiest = max(pc.value_counts(payments["account_id"]).field("counts").to_pylist())
    assert 0.12 < busiest / payments.num_rows < 0.16
    assert pc.count_distinct(payments["event_id"]).as_py() == payments.num_rows
