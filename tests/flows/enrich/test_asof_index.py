"""Versions of keys by two clocks: what an as-of lookup finds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.windows.columns import BlockColumns, Keys
from flows.enrich import asof_index
from flows.enrich.asof_index import AsOfIndex

SCHEMA = pa.schema([pa.field("value", pa.string())])
_row = st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.integers(0, 20))


def keys(names: list[str]) -> Keys:
    return BlockColumns(pa.record_batch({"k": pa.array(names, pa.string())})).keys(("k",))


def add(made: AsOfIndex, rows: list[tuple[str, int, int]], first: int) -> None:
    values = pa.record_batch({"value": pa.array([f"v{first + i}" for i in range(len(rows))], pa.string())})
    made.add(
        keys([r[0] for r in rows]), np.array([r[1] for r in rows]), np.array([r[2] for r in rows]), values
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(_row, min_size=1, max_size=8), max_size=8), st.lists(_row, min_size=1, max_size=20))
def test_lookup_finds_the_newest_version_that_was_true_and_known(
    blocks: list[list[tuple[str, int, int]]], wanted: list[tuple[str, int, int]]
) -> None:
    small, asof_index._SMALL = asof_index._SMALL, 5  # type: ignore[misc]
    try:
        made = AsOfIndex(SCHEMA)
        rows: list[tuple[str, int, int]] = []
        for block in blocks:
            add(made, block, len(rows))
            rows += block
        known = np.array([i % 5 != 4 for i in range(len(wanted))])
        found = made.at(
            keys([w[0] for w in wanted]),
            np.array([w[1] for w in wanted]),
            np.array([w[2] for w in wanted]),
            known,
        )[0].to_pylist()
    finally:
        asof_index._SMALL = small  # type: ignore[misc]
    for i, ((key, t, seen), value) in enumerate(zip(wanted, found, strict=True)):
        candidates = [
            (r[1], r[2], n) for n, r in enumerate(rows) if r[0] == key and r[1] <= t and r[2] <= seen
        ]
        assert value == (f"v{max(candidates)[2]}" if candidates and known[i] else None)


def test_versions_older_than_the_limit_do_not_count_and_are_forgotten() -> None:
    made = AsOfIndex(SCHEMA, within_us=10, keep_us=20)
    small, asof_index._SMALL = asof_index._SMALL, 2  # type: ignore[misc]
    try:
        for i in range(100):
            add(made, [("a", i, i)], i)
    finally:
        asof_index._SMALL = small  # type: ignore[misc]
    assert len(made) < 40
    found = made.at(keys(["a", "a"]), np.array([105, 120]), np.array([200, 200]), np.ones(2, bool))
    assert found[0].to_pylist() == ["v99", None]


def test_latest_is_the_newest_of_all() -> None:
    made = AsOfIndex(SCHEMA, within_us=10)
    add(made, [("a", 1, 1), ("a", 3, 2), ("a", 2, 9)], 0)
    assert made.latest(keys(["a", "b"]), np.ones(2, bool))[0].to_pylist() == ["v1", None]
