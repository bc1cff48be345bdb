"""What the less common functions mean, in small tables; that kernels agree with the oracle is the business of
`test_windows_oracle`.
"""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.errors import DefinitionError
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.history.answer import features_at
from feature_repo.windows.kernels.decay import weight
from feature_repo.windows.kernels.exact_sum import LIMIT
from feature_repo.windows.kernels.sketch import SMALLEST, bucket_of, value_of
from feature_repo.windows.spec import QUANTILES, Aggregate, ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState

S = 1_000_000
HOUR = 3600 * S


def spec(*aggregates: tuple[str, str], window: int = 100 * S, hop: int = 0, capacity: int = 1024) -> ViewSpec:
    made = tuple(Aggregate(function, function, column, window) for function, column in aggregates)
    return ViewSpec("v", ("account",), hop, capacity, 0, made)


def at(view: ViewSpec, t: int, **columns: list[object]) -> dict[str, float]:
    """The features of one account at `t`; event i happens `at` seconds[i], by default at second i."""
    n = len(next(iter(columns.values())))
    seconds = columns.pop("seconds", list(range(n)))
    rows = pa.table(
        {
            "event_id": [f"{i:03d}" for i in range(n)],
            "event_timestamp": pa.array([int(s * S) for s in seconds], pa.timestamp("us", "UTC")),
            "account": ["a"] * n,
            **{name: pa.array(values) for name, values in columns.items()},
        }
    )
    block = BlockColumns(rows)
    wanted = BlockColumns(pa.table({"account": ["a"]})).keys(("account",))
    values, _ = features_at(view, block.keys(("account",)), block.events(view), wanted, np.array([t]))
    return dict(zip(view.feature_names, values[0].tolist(), strict=True))


def null(value: float) -> float | None:
    return None if math.isnan(value) else value


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], (4.0, 3.0, 2.0)),
        ([1.0, None, 3.0, None], (3.0, 1.0, None)),
        ([None, None], (None, None, None)),
    ],
)
def test_the_second_and_third_last_value_skip_nulls(
    amounts: list[object], expected: tuple[float | None, ...]
) -> None:
    got = at(spec(("last", "amount"), ("last_2", "amount"), ("last_3", "amount")), 50 * S, amount=amounts)
    assert tuple(null(got[f]) for f in ("last", "last_2", "last_3")) == expected


@pytest.mark.parametrize(
    ("devices", "since", "count"),
    [
        (["x", None, None], 10.0, 2.0),
        ([None, None, "x"], 8.0, 0.0),
        ([None, None, None], None, None),
    ],
)
def test_rows_and_seconds_are_counted_from_the_newest_row_whose_column_is_known(
    devices: list[object], since: float | None, count: float | None
) -> None:
    got = at(spec(("seconds_since_last", "device"), ("count_since", "device")), 10 * S, device=devices)
    assert (null(got["seconds_since_last"]), null(got["count_since"])) == (since, count)


def test_a_row_of_a_column_that_is_never_null_is_always_the_newest_known() -> None:
    got = at(spec(("seconds_since_last", "event_id"), ("count_since", "event_id")), 10 * S, amount=[1.0, 2.0])
    assert got == {"seconds_since_last": 9.0, "count_since": 0.0}


@pytest.mark.parametrize(("age", "share"), [(25, 0.5), (50, 0.25), (100, 0.0625)])
@pytest.mark.parametrize("hop", [0, S], ids=["exact", "tiled"])
def test_a_value_halves_with_every_quarter_of_the_window(age: int, share: float, hop: int) -> None:
    got = at(spec(("decayed_sum", "amount"), hop=hop), (100 + age) * S, amount=[8.0], seconds=[100])
    assert got["decayed_sum"] == 8.0 * share


def test_an_empty_decayed_sum_is_zero_as_a_sum_is() -> None:
    assert at(spec(("decayed_sum", "amount")), 500 * S, amount=[8.0])["decayed_sum"] == 0.0


def test_weights_are_exact_to_two_units_in_the_last_place() -> None:
    for age in range(0, 2000, 3):
        assert math.isclose(weight(age, 1000), 2.0 ** (-age / 250), rel_tol=4.5e-16)


sizes = st.floats(SMALLEST, LIMIT, allow_nan=False) | st.floats(0.01, 10_000)
values = st.one_of(st.just(0.0), sizes, sizes.map(lambda x: -x))


@settings(max_examples=300, deadline=None)
@given(values, values)
def test_a_bucket_stands_for_its_values_to_one_per_cent_and_keeps_their_order(x: float, y: float) -> None:
    for value in (x, y):
        assert abs(value_of(bucket_of(value)) - value) <= 0.010_000_001 * abs(value)
    if x < y:
        assert bucket_of(x) <= bucket_of(y)


def test_what_is_too_small_to_tell_from_zero_is_zero() -> None:
    assert (bucket_of(9e-10), bucket_of(-9e-10), bucket_of(0.0)) == (0, 0, 0)
    assert bucket_of(1.1e-9) > 0 > bucket_of(-1.1e-9)
    assert bucket_of(LIMIT) > bucket_of(LIMIT / 1.03)


SKETCH = spec(*((q, "amount") for q in QUANTILES), ("count", "amount"), window=HOUR, hop=60 * S)


@settings(max_examples=60, deadline=None)
@given(st.lists(values | st.none(), min_size=1, max_size=300), st.randoms(use_true_random=False))
def test_quantiles_are_within_one_per_cent_of_the_value_at_their_rank(
    amounts: list[float | None], random
) -> None:
    seconds = [random.randrange(3600) for _ in amounts]
    got = at(SKETCH, HOUR, amount=pa.array(amounts, pa.float64()), seconds=seconds)
    known = sorted(a for a in amounts if a is not None)
    assert got["count"] == len(known)
    for name, percent in QUANTILES.items():
        if not known:
            assert math.isnan(got[name])
            continue
        exact = known[(len(known) - 1) * percent // 100]
        assert abs(got[name] - exact) <= 0.010_000_001 * abs(exact)


def test_a_sketch_has_at_most_a_row_for_every_hop_and_bucket() -> None:
    draw = np.random.default_rng(1)
    n = 20_000
    amounts = np.round(draw.lognormal(3, 1, n), 2)
    rows = pa.table(
        {
            "event_id": [f"{i:05d}" for i in range(n)],
            "event_timestamp": pa.array(np.sort(draw.integers(0, HOUR, n)), pa.timestamp("us", "UTC")),
            "account": ["a"] * n,
            "amount": amounts,
        }
    )
    block, index, state = BlockColumns(rows), KeyIndex(), ViewState(SKETCH)
    state.fold(index.slots(block.keys(("account",))), block.events(SKETCH))
    blob, _ = state.pack(np.zeros(1, np.int64))
    hops = block.times("event_timestamp") // SKETCH.hop_us
    pairs = {(hop, bucket_of(a)) for hop, a in zip(hops.tolist(), amounts.tolist(), strict=True)}
    assert int(blob.view(np.int64)[2]) == len(pairs) < n


@pytest.mark.parametrize(
    "made",
    [
        {"aggregates": [("median", "amount")]},
        {"aggregates": [("median", "amount"), ("sum", "amount")], "hop": S},
        {"aggregates": [("median", "amount"), ("count", "event_id")], "hop": S},
        {"aggregates": [("median", "amount"), ("p90", "latitude")], "hop": S},
    ],
)
def test_quantiles_stand_in_a_tiled_view_of_their_own(made: dict) -> None:
    with pytest.raises(DefinitionError, match=r"quantiles .* need a view of their own"):
        spec(*made["aggregates"], hop=made.get("hop", 0))


@pytest.mark.parametrize("function", ["last_2", "last_3", "count_since"])
def test_functions_about_single_rows_cannot_be_merged_from_tiles(function: str) -> None:
    with pytest.raises(DefinitionError, match="cannot be merged from tiles"):
        spec((function, "amount"), hop=S)


def test_the_answer_is_not_called_capped_when_the_newest_rows_decide_it() -> None:
    view = spec(("last_2", "amount"), ("count_since", "device"), capacity=3)
    n = 10
    rows = pa.table(
        {
            "event_id": [f"{i:03d}" for i in range(n)],
            "event_timestamp": pa.array([i * S for i in range(n)], pa.timestamp("us", "UTC")),
            "account": ["a"] * n,
            "amount": [float(i) for i in range(n)],
            "device": ["x"] * 8 + [None] * 2,
        }
    )
    block = BlockColumns(rows)
    keys = block.keys(("account",))
    got, flags = features_at(view, keys, block.events(view), keys, np.full(n, n * S))
    assert got[0].tolist() == [8.0, 2.0]
    assert not flags.any()
