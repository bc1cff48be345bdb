"""Payments scored but not yet folded count as if they were folded: the same values, whatever part of them the states
know.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.stores.open_store import REPO
from feature_repo.stores.reader.pending import MAX_LISTED, Pending
from feature_repo.stores.reader.plan import Plan, WindowedRead, compile_plan
from feature_repo.stores.reader.reader import Reader, Vector
from feature_repo.streams.payments import PAYMENTS
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.spec import Aggregate, ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.generate.history import generate
from tests.kits.applied_home import log_payments
from tests.kits.served_model import own_home, score_lines, world
from training.skew import measure

MINUTE = 60_000_000
NOW = 1_790_000_000_000_000
Row = dict[str, Any]


def _view(name: str, keys: tuple[str, ...], hop_us: int, *aggregates: tuple[str, str, int]) -> ViewSpec:
    made = tuple(Aggregate(f"{name}_{f}_{c}_{w}", f, c, w * MINUTE) for f, c, w in aggregates)
    return ViewSpec(name, keys, hop_us, 64, 10 * MINUTE, made)


SPECS = (
    _view(
        "recent",
        ("account_id",),
        0,
        *((f, "amount", w) for f in ("count", "sum", "mean", "min", "max", "std", "last") for w in (5, 60)),
        ("count_distinct", "merchant_id", 60),
        ("seconds_since_last", "event_id", 60),
        ("count", "latitude", 60),
    ),
    _view("minutes", ("account_id",), MINUTE, ("sum", "amount", 30), ("count", "event_id", 30)),
    _view("sizes", ("account_id",), 5 * MINUTE, ("median", "amount", 60)),
    _view("payee", ("merchant_id",), 0, ("count", "event_id", 5), ("count_distinct", "account_id", 5)),
    _view("payee_minutes", ("merchant_id",), MINUTE, ("max", "amount", 60)),
    _view("pair", ("account_id", "merchant_id"), 0, ("count", "event_id", 60)),
    _view("device", ("account_id", "device_id"), 0, ("count", "event_id", 60)),
)
PLAN = Plan(
    "p",
    "s",
    tuple(WindowedRead(spec, spec.join_keys, "payments") for spec in SPECS),
    (),
    (),
    (),
    tuple((a.name, "float64") for spec in SPECS for a in spec.aggregates),
)
READER = Reader(PLAN, Path())


class Store:
    """States folded from some payments, and the lists of all scored ones."""

    def __init__(self, folded: list[Row]) -> None:
        self._states: dict[tuple[str, ...], dict[tuple[str, ...], list[bytes]]] = {}
        self.lists: dict[bytes, list[bytes]] = {}
        for keys in dict.fromkeys(spec.join_keys for spec in SPECS):
            specs = [spec for spec in SPECS if spec.join_keys == keys]
            rows = [row for row in folded if all(row[k] is not None for k in keys)]
            self._states[keys] = {}
            if not rows:
                continue
            block = BlockColumns(pa.Table.from_pylist([_logged(row) for row in rows], schema=PAYMENTS.schema))
            index, states = KeyIndex(), [ViewState(spec) for spec in specs]
            slots = index.slots(block.keys(keys))
            for spec, state in zip(specs, states, strict=True):
                state.fold(slots, block.events(spec))
            for row, slot in zip(rows, slots, strict=True):
                packed = [state.pack(np.array([slot]))[0].tobytes() for state in states]
                self._states[keys][tuple(row[k] for k in keys)] = packed

    def vector(self, row: Row) -> Vector:
        replies = []
        for keys in dict.fromkeys(spec.join_keys for spec in SPECS):
            if all(row[k] is not None for k in keys):
                n = sum(spec.join_keys == keys for spec in SPECS)
                replies.append(self._states[keys].get(tuple(row[k] for k in keys), [None] * n))
        lists = [self.lists.get(key, []) for key in READER.pending.keys(row)]
        return READER.vector(row, replies, row["event_timestamp"], row["event_timestamp"], lists)

    def score(self, row: Row) -> Vector:
        """As the scorer does: read, leave the payment in its lists, take off what the states know."""
        vector = self.vector(row)
        member = READER.pending.member(row, vector.named, row["event_id"], row["event_timestamp"])
        for number, key in enumerate(READER.pending.keys(row)):
            known = self.lists.setdefault(key, [])
            settled = vector.pending.settled[number] if vector.pending.settled else []
            self.lists[key] = [m for m in known if m not in settled] + [member]
        return vector


def _logged(row: Row) -> Row:
    return row | {
        "event_timestamp": datetime.fromtimestamp(0, UTC) + timedelta(microseconds=row["event_timestamp"])
    }


@st.composite
def payments(draw: st.DrawFn) -> list[Row]:
    """Payments of few keys within a quarter of an hour, in order of time, some at one instant: as long as they are
    pending at all.
    """
    n = draw(st.integers(2, 40))
    steps = draw(st.lists(st.sampled_from([0, 1, 7_000_000, 20_000_000]), min_size=n, max_size=n))
    at = NOW - 14 * MINUTE
    rows: list[Row] = []
    for i, step in enumerate(steps):
        at += step
        row = dict.fromkeys(PAYMENTS.schema.names) | {
            "event_id": f"p{draw(st.integers(0, 9))}-{i}",
            "event_timestamp": at,
            "account_id": draw(st.sampled_from(["a", "b"])),
            "merchant_id": draw(st.sampled_from(["m", "n", ""])),
            "device_id": draw(st.sampled_from(["d", None])),
            "type": "PAYMENT",
            "amount": draw(st.sampled_from([0.0, 0.1, 3.3, 1e6, 2.0**41])),
            "currency": "EUR",
            "latitude": draw(st.sampled_from([None, 47.0])),
        }
        rows.append(row)
    return rows


@settings(max_examples=60, deadline=None)
@given(payments(), st.data())
def test_whatever_the_states_lack_is_folded_in(rows: list[Row], data: st.DataObject) -> None:
    scored, asked = rows[:-1], rows[-1]
    known = data.draw(st.lists(st.booleans(), min_size=len(scored), max_size=len(scored)))
    everything = Store(scored).vector(asked)
    some = Store([row for row, is_known in zip(scored, known, strict=True) if is_known])
    for row in scored:
        some.score(row)
        if data.draw(st.booleans()):
            some.score(row)  # a client that tries again
    found = some.score(asked)
    np.testing.assert_array_equal(found.values, everything.values)


@settings(max_examples=20, deadline=None)
@given(payments())
def test_what_has_been_folded_leaves_the_lists(rows: list[Row]) -> None:
    store = Store(rows)
    for row in rows:
        store.score(row)
    store.score(rows[-1])
    later = Store(rows)
    later.lists = store.lists
    for row in rows:
        assert later.score(row).pending.missing == 0
    own = {READER.pending.member(rows[-1], {}, rows[-1]["event_id"], rows[-1]["event_timestamp"])}
    for row in rows:
        for key in READER.pending.keys(row):
            left = [orjson.loads(member)["i"] for member in later.lists[key]]
            assert len(left) <= 2 + len(own), "what the states know is taken off at the next score"


def test_a_payment_too_old_for_the_state_is_not_missed() -> None:
    base = dict.fromkeys(PAYMENTS.schema.names) | {"account_id": "a", "merchant_id": "m", "amount": 1.0}
    old = base | {"event_id": "old", "event_timestamp": NOW - 90 * MINUTE}
    new = base | {"event_id": "new", "event_timestamp": NOW - MINUTE}
    store = Store([new])
    store.score(old)
    found = store.score(base | {"event_id": "x", "event_timestamp": NOW})
    assert found.pending.missing == 0
    assert [len(members) for members in found.pending.settled] == [1, 1]


def test_a_list_that_is_too_long_is_reported() -> None:
    base = dict.fromkeys(PAYMENTS.schema.names) | {"account_id": "a", "merchant_id": "m", "amount": 1.0}
    store = Store([])
    rows = [base | {"event_id": f"{i}", "event_timestamp": NOW - MINUTE + i} for i in range(MAX_LISTED + 1)]
    for row in rows:
        member = READER.pending.member(row, {}, row["event_id"], row["event_timestamp"])
        for key in READER.pending.keys(row):
            store.lists.setdefault(key, []).append(member)
    found = store.vector(base | {"event_id": "x", "event_timestamp": NOW})
    assert "recent" in found.capped


def test_a_key_of_tiled_views_alone_has_no_list() -> None:
    alone = Plan("p", "s", (WindowedRead(SPECS[1], SPECS[1].join_keys, "payments"),), (), (), (), ())
    assert Pending(alone, PAYMENTS.schema.names).columns == ()
    of_labels = Plan("p", "s", (WindowedRead(SPECS[0], SPECS[0].join_keys, "labels"),), (), (), (), ())
    assert Pending(of_labels, PAYMENTS.schema.names).columns == ()


@pytest.fixture(scope="module")
def later_payments() -> pa.Table:
    """Payments after those the states know, in bursts: few accounts and payees within minutes."""
    start = datetime.now(UTC) - timedelta(minutes=4)
    made = generate(11, start, days=3 / 1440, accounts=10, merchants=10, payments=120).payments
    known = world().payments
    for column, n in (("account_id", 5), ("merchant_id", 3)):
        few = known[column].unique().to_pylist()[:n]
        names = made[column].to_pylist()
        order = {name: i % n for i, name in enumerate(dict.fromkeys(names))}
        at = made.schema.get_field_index(column)
        made = made.set_column(at, column, pa.array([few[order[name]] for name in names], pa.string()))
    return made.set_column(0, "event_id", pa.array([f"later-{i}" for i in range(made.num_rows)]))


def test_a_burst_no_flow_has_folded_is_scored_as_if_it_were(later_payments: pa.Table, tmp_path: Path) -> None:
    there, n = world(), later_payments.num_rows
    bodies = [_request(row) for row in later_payments.to_pylist()]
    with there.scorer(home=own_home(tmp_path), pending_seconds=900) as client:
        for body in bodies[: n // 2]:
            assert client.post("/score", json=body).status_code == 200
        shuffled = [bodies[n // 2 :][i] for i in np.random.default_rng(0).permutation(n - n // 2)]
        answers = client.post("/score/batch", json={"payments": shuffled}).json()["answers"]
        assert [answer["event_id"] for answer in answers] == [body["event_id"] for body in shuffled]
    scores = score_lines(tmp_path / "scores")
    assert len(scores) == n
    assert sum(score["pending"] for score in scores) > n
    log_payments(there.settings, later_payments, "part-later")
    try:
        with there.environment():
            report = measure(there.store, there.plan, scores, 0, there.settings.log_dir)
    finally:
        (there.settings.payments_log / "part-later.parquet").unlink()
    assert (report.compared, report.differing, report.examples) == (n, 0, [])


def test_switched_off_nothing_is_kept(later_payments: pa.Table, tmp_path: Path) -> None:
    there, row = world(), later_payments.slice(later_payments.num_rows - 1).to_pylist()[0]
    keys = f"millstream:pending:*:{row['account_id']}"
    for key in there.client.keys(keys):
        there.client.delete(key)
    with there.scorer(home=own_home(tmp_path), pending_seconds=0) as client:
        assert client.post("/score", json=_request(row)).status_code == 200
    assert not there.client.keys(keys)


def _request(row: Row) -> Row:
    known = {name: row[name] for name in PAYMENTS.schema.names if row.get(name) is not None}
    return known | {"event_timestamp": row["event_timestamp"].isoformat()}


def test_every_view_of_the_service_knows_of_pending_payments() -> None:
    plan = compile_plan(world().store, "fraud_detection_v3")
    of_payments = {r.spec.name for r in plan.windowed if r.stream == PAYMENTS.name}
    assert Pending(plan, PAYMENTS.schema.names).views == of_payments
    assert {r.spec.name for r in plan.windowed} - of_payments == {"account_labels", "merchant_labels"}
    assert Reader(plan, REPO).pending.columns == ("account_id", "merchant_id")
