"""Windows that slide give the bits of windows that are walked, whatever the history: the two kernels of the offline
side.
"""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.windows.columns import BlockColumns, Events, Keys
from feature_repo.windows.history import answer
from feature_repo.windows.history.answer import features_at
from feature_repo.windows.history.dense_ids import UNKNOWN, KeyIds, value_ids
from feature_repo.windows.history.order import by_key_and_time
from feature_repo.windows.history.view import HistoryView
from feature_repo.windows.kernels.rows import CAPPED
from feature_repo.windows.spec import Aggregate, ViewSpec
from tests.feature_repo.windows.test_oracle import KINDS, S, view

relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def made(seed: int, n: int, *, keys: int, span: int, nulls: float) -> pa.Table:
    """Unsorted events with many ties of time; zeros of both signs among the amounts."""
    draw = np.random.default_rng(seed)
    amounts = draw.choice([0.0, -0.0, 1.25, -7.5, 1e9 / 3, 1e-6], n) * draw.integers(1, 9, n)
    return pa.table(
        {
            "event_id": pa.array([f"e{i}" for i in draw.permutation(n)], pa.string()),
            "event_timestamp": pa.array(draw.integers(0, span, n) * S // 2, pa.timestamp("us", "UTC")),
            "account": pa.array([f"a{i}" for i in draw.integers(0, keys, n)], pa.string()),
            "payee": pa.array([f"m{i}" for i in draw.integers(0, 5, n)], mask=draw.random(n) < nulls),
            "amount": pa.array(amounts, mask=draw.random(n) < nulls),
            "latitude": pa.array(np.ones(n), mask=draw.random(n) < 0.5),
        }
    )


def both(spec: ViewSpec, events: pa.Table, wanted: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers by sliding, and by walking: with every event accepted at once, and every row taken for one that hides
    something.
    """
    block, asked = BlockColumns(events), BlockColumns(wanted)
    given = (spec, block.keys(("account",)), block.events(spec), asked.keys(("account",)))
    times = asked.times("event_timestamp")
    slid, flags = features_at(*given, times)
    long_ago = np.full(events.num_rows, -(1 << 50))
    with monkeypatch.context() as patched:
        patched.setattr(HistoryView, "_slide", lambda *_: None)
        patched.setattr(
            "feature_repo.windows.history.view.has_later_accepted", lambda *a: np.ones(len(a[-1]), bool)
        )
        walked, walked_flags = features_at(*given, times, long_ago)
    assert slid.tobytes() == walked.tobytes()
    assert flags.tobytes() == walked_flags.tobytes()


@pytest.mark.parametrize("hop_us", KINDS, ids=["exact", "tiled", "sketch"])
@pytest.mark.parametrize("group_rows", [1, 40, 1 << 16])
@relaxed
@given(
    st.integers(0, 1 << 30),
    st.integers(0, 120),
    st.integers(1, 4),
    st.sampled_from([1, 2, 6, 1000]),
    st.sampled_from([(2 * S, 4 * S), (4 * S, 40 * S)]),
    st.sampled_from([0.0, 0.4, 1.0]),
)
def test_sliding_windows_have_the_bits_of_walked_ones(
    hop_us: int,
    group_rows: int,
    seed: int,
    n: int,
    keys: int,
    capacity: int,
    windows: tuple[int, int],
    nulls: float,
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(answer, "GROUP_ROWS", group_rows)
        events = made(seed, n, keys=keys, span=60, nulls=nulls)
        wanted = made(seed + 1, 80, keys=keys + 1, span=70, nulls=0.0)
        both(view(hop_us, capacity, windows), events, wanted, patched)


@pytest.mark.parametrize("hop_us", [0, 2 * S, -2 * S], ids=["exact", "tiled", "sketch"])
def test_a_long_history_crosses_chunks_and_groups(hop_us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "GROUP_ROWS", 1000)
    events = made(7, 6000, keys=5, span=900, nulls=0.1)
    both(view(hop_us, 20, (2 * S, 100 * S)), events, made(8, 3000, keys=6, span=1000, nulls=0.0), monkeypatch)


def test_a_window_of_a_microsecond_holds_the_instant_before_only() -> None:
    spec = ViewSpec(
        "v", ("account",), 0, 9, S, (Aggregate("n", "count", "event_id", 1), Aggregate("s", "sum", "x", 1))
    )
    ints = np.array([[5, 0, 1], [5, 0, 2], [6, 0, 3]], np.int64)
    key = Keys(np.array([[3, 4]] * 3, np.int64), np.zeros(4, np.int64), np.zeros(0, np.uint8))
    out, _ = features_at(spec, key, Events(ints, np.array([[1.5], [2.0], [4.0]])), key, np.array([5, 6, 7]))
    assert out.tolist() == [[0, 0], [2, 3.5], [1, 4]]


def test_only_windows_that_were_cut_are_flagged() -> None:
    aggregates = (
        Aggregate("long", "count", "event_id", 10 * S),
        Aggregate("newest", "last", "amount", 10 * S),
    )
    events = made(3, 8, keys=1, span=4, nulls=0.0)
    block = BlockColumns(events)
    key, times = block.keys(("account",)), np.full(8, 8 * S)
    for of, flag in ((aggregates, CAPPED), (aggregates[1:], 0)):
        spec = ViewSpec("v", ("account",), 0, 5, S, of)
        assert set(features_at(spec, key, block.events(spec), key, times)[1].tolist()) == {flag}


def test_dictionaries_and_plain_strings_have_the_same_hashes() -> None:
    names = pa.array(["b", None, "a", "b", "", None, "a"])
    other = pa.array(["c", "b", "b"])
    coded = pa.chunked_array([names.dictionary_encode(), other.dictionary_encode()])
    plain, encoded = (
        BlockColumns(pa.table({"k": column})) for column in (pa.chunked_array([names, other]), coded)
    )
    assert (plain.has_keys(("k",)) == encoded.has_keys(("k",))).all()
    assert (plain.hashed("k") == encoded.hashed("k")).all()
    known = plain.has_keys(("k",))
    assert (plain.key_hashes(("k",))[known] == encoded.key_hashes(("k",))[known]).all()
    assert (plain.key_hashes(("k",)) == plain.keys(("k",)).hashes).all()


@relaxed
@given(st.lists(st.integers(-3000, 3000), max_size=4000))
def test_numbers_are_one_to_one_with_hashes(values: list[int]) -> None:
    hashes = np.array(values, np.int64)
    pairs = np.column_stack([hashes // 2, hashes % 2])
    numbers = KeyIds()
    first = numbers.add(pairs)
    assert len(numbers) == len(set(values)) == len(set(first.tolist()))
    assert (numbers.find(pairs) == first).all()
    assert (numbers.add(pairs[::-1]) == first[::-1]).all()
    assert (numbers.find(np.array([[9999, 1]])) == UNKNOWN).all()
    dense = np.empty_like(hashes)
    n = value_ids(hashes, dense)
    assert ((dense == 0) == (hashes == 0)).all()
    assert n == len(set(values) - {0}) + 1
    assert len(set(zip(values, dense.tolist(), strict=True))) == len(set(values))


@relaxed
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 9)), max_size=60))
def test_order_is_by_key_then_time_and_stable(rows: list[tuple[int, int]]) -> None:
    numbers, times = np.array([k for k, _ in rows], np.int32), np.array([t for _, t in rows], np.int64)
    order, starts = by_key_and_time(numbers, 4, times)
    wanted = sorted((i for i, (k, _) in enumerate(rows) if k >= 0), key=lambda i: (*rows[i], i))
    assert order.tolist() == wanted
    assert starts.tolist() == [sum(0 <= k < key for k, _ in rows) for key in range(5)]
