"""The compiled fold and read against the naive oracle, at every boundary, in every arrival order."""

import math
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.history.answer import features_at
from feature_repo.windows.kernels.rows import CAPPED, INCOMPLETE
from feature_repo.windows.read import read_state
from feature_repo.windows.spec import EXACT_ONLY, FUNCTIONS, QUANTILES, TILED_ONLY, Aggregate, ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from tests.kits.oracle import Event, agrees

S = 1_000_000
KINDS = [0, 2 * S, -2 * S]
T0 = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * S


def view(hop_us: int, capacity: int = 6, windows: tuple[int, ...] = (4 * S, 16 * S)) -> ViewSpec:
    """All functions the kind of view knows, over two windows. A negative hop: a sketch of hops so long."""
    if hop_us < 0:
        aggregates = [Aggregate(f"{f}_{w}", f, "amount", w) for w in windows for f in (*QUANTILES, "count")]
        return ViewSpec("v", ("account",), -hop_us, capacity, 8 * S, tuple(aggregates))
    names = sorted(set(FUNCTIONS) - set(QUANTILES) - (EXACT_ONLY if hop_us else TILED_ONLY))
    columns = {
        "count_distinct": "payee",
        "count": "event_id",
        "mean_hop_count": "event_id",
        "count_since": "payee",
    }
    aggregates = [Aggregate(f"{f}_{w}", f, columns.get(f, "amount"), w) for w in windows for f in names]
    aggregates.append(Aggregate("known", "count", "amount", windows[0]))
    aggregates.append(Aggregate("placed", "count", "latitude", windows[1]))
    aggregates.append(Aggregate("since_event", "seconds_since_last", "event_id", windows[0]))
    aggregates.append(Aggregate("since_placed", "seconds_since_last", "latitude", windows[1]))
    if not hop_us:
        aggregates.append(Aggregate("after_placed", "count_since", "latitude", windows[1]))
        aggregates.append(Aggregate("after_amount", "count_since", "amount", windows[0]))
        aggregates.append(Aggregate("after_event", "count_since", "event_id", windows[0]))
    return ViewSpec("v", ("account",), hop_us, capacity, 8 * S, tuple(aggregates))


def table(events: list[Event]) -> pa.Table:
    return pa.table(
        {
            "event_id": pa.array([e.event_id for e in events], pa.string()),
            "event_timestamp": pa.array([e.ts for e in events], pa.timestamp("us", "UTC")),
            "account": pa.array([e.key for e in events], pa.string()),
            "payee": pa.array([e.values["payee"] for e in events], pa.string()),
            "amount": pa.array([e.values["amount"] for e in events], pa.float64()),
            "latitude": pa.array([e.values["latitude"] for e in events], pa.float64()),
        }
    )


amounts = st.one_of(
    st.none(),
    st.integers(1, 500_000).map(lambda cents: cents / 100),
    st.floats(-1e12, 1e12, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 2**-11),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Few keys, many ties: times on whole seconds and one microsecond around them."""
    n = draw(st.integers(0, 24))
    seconds = st.integers(0, 40)
    events = []
    for i in range(n):
        ts = T0 + draw(seconds) * S + draw(st.sampled_from([0, 0, 0, 1, -1]))
        values = {
            "amount": draw(amounts),
            "payee": draw(st.sampled_from(["m1", "m2", "m3", None])),
            "latitude": draw(st.sampled_from([None, 1.0])),
        }
        events.append(
            Event(ts, f"e{draw(st.integers(0, 9))}-{i}", draw(st.sampled_from(["a", "bé", ""])), values)
        )
    return events


def folded(spec: ViewSpec, events: list[Event], cuts: int = 3) -> tuple[KeyIndex, ViewState]:
    index, state = KeyIndex(), ViewState(spec)
    for part in np.array_split(np.arange(len(events)), cuts):
        block = BlockColumns(table([events[i] for i in part]))
        state.fold(index.slots(block.keys(spec.join_keys)), block.events(spec))
    return index, state


def packed(index: KeyIndex, state: ViewState, key: str) -> bytes | None:
    keys = BlockColumns(pa.table({"account": pa.array([key], pa.string())})).keys(("account",))
    known = len(index)
    slot = index.slots(keys)
    if slot[0] >= known:
        return None
    blob, _ = state.pack(slot)
    return blob.tobytes()


TIMES = [T0 + s * S + d for s in (0, 1, 4, 7, 16, 20, 31, 38, 41) for d in (-1, 0, 1)]
relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.mark.parametrize("hop_us", KINDS, ids=["exact", "tiled", "sketch"])
@relaxed
@given(histories(), st.randoms(use_true_random=False))
def test_every_function_equals_the_naive_oracle_in_any_arrival_order(
    hop_us: int, events: list[Event], random
) -> None:
    spec = view(hop_us)
    shuffled = random.sample(events, len(events))
    index, state = folded(spec, shuffled)
    newest = {k: max((e.ts for e in events if e.key == k), default=0) for k in ("a", "bé", "")}
    for key, last in newest.items():
        bytes_ = packed(index, state, key)
        for t in TIMES:
            values, flags = read_state(bytes_, spec, t)
            if (
                flags & INCOMPLETE
            ):  # the past is given up only beyond the grace, or where a hot key pushed it out
                assert t < last - spec.grace_us or (not spec.tiled and t <= last)
            for a, value in zip(spec.aggregates, values, strict=True):
                given_up = flags & INCOMPLETE and math.isnan(value)
                assert given_up or agrees(value, events, spec, a, key, t), (a, key, t, value)


@pytest.mark.parametrize("hop_us", KINDS, ids=["exact", "tiled", "sketch"])
@relaxed
@given(histories(), st.randoms(use_true_random=False))
def test_state_bytes_are_a_function_of_the_set_of_events(hop_us: int, events: list[Event], random) -> None:
    spec = view(hop_us)
    one = folded(spec, events, cuts=1)
    other = folded(spec, random.sample(events, len(events)), cuts=5)
    for key in ("a", "bé", ""):
        assert packed(*one, key) == packed(*other, key)


@pytest.mark.parametrize("hop_us", KINDS, ids=["exact", "tiled", "sketch"])
@relaxed
@given(histories(), st.integers(0, 24))
def test_a_state_that_went_through_bytes_folds_on_as_if_it_had_not(
    hop_us: int, events: list[Event], cut: int
) -> None:
    spec = view(hop_us)
    index, state = folded(spec, events[:cut])
    every = np.arange(len(index))
    blob, offsets = state.pack(every)
    second, again = KeyIndex(), ViewState(spec)
    assert list(second.slots(index.export())) == list(every)
    again.load(every, blob, offsets)
    for s in (state, again):
        block = BlockColumns(table(events[cut:]))
        s.fold((index if s is state else second).slots(block.keys(spec.join_keys)), block.events(spec))
    for key in ("a", "bé", ""):
        assert packed(index, state, key) == packed(second, again, key)


@pytest.mark.parametrize("hop_us", KINDS, ids=["exact", "tiled", "sketch"])
@relaxed
@given(histories())
def test_history_equals_the_live_state_bit_for_bit(hop_us: int, events: list[Event]) -> None:
    spec = view(hop_us)
    index, state = folded(spec, events)
    asked = [(key, t) for key in ("a", "bé", "", "nobody") for t in TIMES]
    wanted = BlockColumns(pa.table({"account": pa.array([k for k, _ in asked], pa.string())})).keys(
        ("account",)
    )
    block = BlockColumns(table(events))
    out, history_flags = features_at(
        spec, block.keys(("account",)), block.events(spec), wanted, np.array([t for _, t in asked])
    )
    for (key, t), row, history_flag in zip(asked, out, history_flags, strict=True):
        values, flags = read_state(packed(index, state, key), spec, t)
        if not flags & INCOMPLETE:
            assert values.tobytes() == row.tobytes()
            assert flags == history_flag


@pytest.mark.parametrize("hop_us", KINDS, ids=["exact", "tiled", "sketch"])
@relaxed
@given(histories(), st.lists(st.integers(0, 12), min_size=24, max_size=24))
def test_created_filter_hides_what_was_not_known_yet(
    hop_us: int, events: list[Event], delays: list[int]
) -> None:
    spec = view(hop_us)
    created = np.array([e.ts + d * S for e, d in zip(events, delays, strict=False)], np.int64)
    asked = [(key, t) for key in ("a", "bé") for t in TIMES]
    wanted = BlockColumns(pa.table({"account": pa.array([k for k, _ in asked], pa.string())})).keys(
        ("account",)
    )
    block = BlockColumns(table(events))
    times = np.array([t for _, t in asked])
    out, _ = features_at(spec, block.keys(("account",)), block.events(spec), wanted, times, created)
    for (key, t), row in zip(asked, out, strict=True):
        known = [e for e, c in zip(events, created, strict=True) if c <= t]
        for a, value in zip(spec.aggregates, row, strict=True):
            assert agrees(value, known, spec, a, key, t), (a, key, t)


def test_event_at_the_window_start_counts_and_event_at_t_does_not() -> None:
    spec = ViewSpec("v", ("account",), 0, 8, 0, (Aggregate("n", "count", "event_id", 10 * S),))
    null = {"amount": None, "payee": None, "latitude": None}
    index, state = folded(spec, [Event(T0, "a", "a", null), Event(T0 + 10 * S, "b", "a", null)])
    bytes_ = packed(index, state, "a")
    assert [read_state(bytes_, spec, t)[0][0] for t in (T0 + 10 * S, T0 + 10 * S + 1)] == [1.0, 1.0]


def test_hot_key_answers_from_the_newest_events_and_says_so() -> None:
    spec = view(0, capacity=3)
    events = [
        Event(T0 + i, f"{i:04d}", "a", {"amount": float(i), "payee": "m", "latitude": None})
        for i in range(50)
    ]
    index, state = folded(spec, events)
    values, flags = read_state(packed(index, state, "a"), spec, T0 + S)
    named = dict(zip(spec.feature_names, values, strict=True))
    assert (named[f"count_{4 * S}"], named[f"sum_{4 * S}"], flags) == (3.0, 47.0 + 48.0 + 49.0, CAPPED)


def test_read_before_what_the_state_holds_is_marked_incomplete() -> None:
    spec = view(0, capacity=3)
    events = [
        Event(T0 + i * S, f"{i:04d}", "a", {"amount": 1.0, "payee": "m", "latitude": None}) for i in range(60)
    ]
    index, state = folded(spec, events)
    bytes_ = packed(index, state, "a")
    assert read_state(bytes_, spec, T0 + 60 * S)[1] & INCOMPLETE == 0
    assert read_state(bytes_, spec, T0 + 30 * S)[1] & INCOMPLETE


@relaxed
@given(histories(), st.randoms(use_true_random=False))
def test_exact_state_ignores_an_event_it_already_holds(events: list[Event], random) -> None:
    spec = view(0, capacity=40)  # nothing is pushed out: the state is the set
    once = folded(spec, events)
    twice = folded(spec, random.sample(events * 2, 2 * len(events)))
    for key in ("a", "bé", ""):
        one, other = packed(*once, key), packed(*twice, key)
        for t in TIMES:
            assert read_state(one, spec, t)[0].tobytes() == read_state(other, spec, t)[0].tobytes()


def test_a_row_with_a_null_in_its_key_has_no_key() -> None:
    block = BlockColumns(pa.table({"account": ["a", None, ""], "payee": ["m", "m", None]}))
    assert block.has_keys(("account",)).tolist() == [True, False, True]
    assert block.has_keys(("account", "payee")).tolist() == [True, False, False]


def test_the_id_column_orders_events_of_one_instant_and_is_kept_in_the_spec() -> None:
    made = view(0).to_dict()
    spec = ViewSpec.from_dict(made | {"id_column": "payee"})
    assert ViewSpec.from_dict({k: v for k, v in made.items() if k != "id_column"}) == view(0)
    assert ViewSpec.from_dict(spec.to_dict()) == spec
    assert spec.fingerprint != view(0).fingerprint
    rows = [Event(T0, "b", "a", {"amount": 1.0, "payee": "x", "latitude": None}),
            Event(T0, "a", "a", {"amount": 2.0, "payee": "y", "latitude": None})]  # fmt: skip
    for chosen, last in ((view(0), 1.0), (spec, 2.0)):
        values, _ = read_state(packed(*folded(chosen, rows), "a"), chosen, T0 + S)
        assert dict(zip(chosen.feature_names, values, strict=True))[f"last_{16 * S}"] == last


@pytest.mark.parametrize("hop_us", KINDS, ids=["exact", "tiled", "sketch"])
@relaxed
@given(histories())
def test_read_then_fold_equals_reading_and_folding_one_event_after_the_other(
    hop_us: int, events: list[Event]
) -> None:
    spec = view(hop_us, capacity=3)
    index, state, other_index, other = KeyIndex(), ViewState(spec), KeyIndex(), ViewState(spec)
    rows: list[np.ndarray] = []
    for part in (events[:7], events[7:]):
        block = BlockColumns(table(part))
        rows.extend(state.read_then_fold(index.slots(block.keys(spec.join_keys)), block.events(spec)))
    for event, row in zip(events, rows, strict=True):
        assert row.tobytes() == read_state(packed(other_index, other, event.key), spec, event.ts)[0].tobytes()
        block = BlockColumns(table([event]))
        other.fold(other_index.slots(block.keys(spec.join_keys)), block.events(spec))
    for key in ("a", "bé", ""):
        assert packed(index, state, key) == packed(other_index, other, key)


@pytest.mark.parametrize("hop_us", KINDS, ids=["exact", "tiled", "sketch"])
def test_read_then_fold_grows_the_state_as_it_goes(hop_us: int) -> None:
    spec = view(hop_us, capacity=1000)
    null = {"amount": 1.0, "payee": "m", "latitude": None}
    events = [Event(T0 + i * S // 4, f"{i:05d}", "ab"[i % 2], null) for i in range(3000)]
    block = BlockColumns(table(events))
    index, state = KeyIndex(), ViewState(spec)
    got = state.read_then_fold(index.slots(block.keys(spec.join_keys)), block.events(spec))
    whole = folded(spec, events)
    assert packed(index, state, "a") == packed(*whole, "a")
    keys, times = block.keys(spec.join_keys), block.times("event_timestamp")
    history, _ = features_at(spec, keys, block.events(spec), keys, times)
    assert (
        got.tobytes() == history.tobytes()
    )  # events came in order: what came before is what happened before
