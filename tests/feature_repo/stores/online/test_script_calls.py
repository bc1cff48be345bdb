"""What goes to the online store as bytes is what a client that takes every argument into its hands would send."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.stores.online.script_calls import BATCH, StateCalls, row_calls
from feature_repo.stores.redis_layout.keys import encode_timestamp
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.spec import Aggregate, ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.window_state.dirty_slots import DirtySlots

HOUR = 3_600_000_000
EXACT = ViewSpec("exact", ("a",), 0, 16, HOUR, (Aggregate("n", "count", "x", HOUR),))
TILED = ViewSpec("tiled", ("a",), HOUR, 16, HOUR, (Aggregate("s", "sum", "x", 4 * HOUR),))

times = st.integers(-(10**15), 10**16) | st.sampled_from([0, 1, 999_999, 1_000_000, -1, -1_000_000])
events = st.lists(st.tuples(st.text(max_size=12), times), min_size=1, max_size=3 * BATCH)


def folded(
    events: list[tuple[str, int]], specs: Sequence[ViewSpec] = (EXACT, TILED)
) -> tuple[KeyIndex, list[ViewState]]:
    rows = pa.table(
        {
            "event_id": [f"e{i}" for i in range(len(events))],
            "event_timestamp": pa.array([t for _, t in events]).cast(pa.timestamp("us", "UTC")),
            "a": [key for key, _ in events],
            "x": np.arange(len(events), dtype=np.float64),
        }
    )
    block, index = BlockColumns(rows.combine_chunks()), KeyIndex()
    slots = index.slots(block.keys(("a",)))
    states = [ViewState(spec) for spec in specs]
    for state in states:
        state.fold(slots, block.events(state.spec))
    return index, states


@settings(deadline=None)
@given(events, st.randoms())
def test_packed_calls_are_those_of_single_rows(events: list[tuple[str, int]], draw: object) -> None:
    index, states = folded(events)
    slots = np.array([s for s in range(len(index)) if draw.random() < 0.8], np.int64)  # type: ignore[attr-defined]
    head = [2, b"f", "g", 12_345, 0]
    made = StateCalls("0" * 40, head, b"pre", b"project").pack(index.export(), states, slots)
    rows = []
    for slot in slots.tolist():
        one = np.array([slot])
        arguments = [state.pack(one)[0].tobytes() for state in states]
        arguments += [encode_timestamp(int(state.newest(one)[0])) for state in states]
        rows.append((b"pre" + index.name(slot) + b"project", arguments))
    expected = row_calls("0" * 40, head, rows)
    assert made.data.tobytes() == expected.data.tobytes()
    assert (made.calls, made.rows, len(made)) == (expected.calls, expected.rows, len(slots))


@given(st.lists(st.lists(st.integers(0, 500)), max_size=8))
def test_dirty_slots_are_a_set(added: list[list[int]]) -> None:
    dirty, plain = DirtySlots(), set[int]()
    for number, some in enumerate(added):
        dirty.add(np.array(some, np.int64))
        plain |= set(some)
        assert len(dirty) == len(plain)
        if number % 3 == 2:
            assert dirty.take().tolist() == sorted(plain)
            plain = set()
    assert dirty.all().tolist() == sorted(plain)
