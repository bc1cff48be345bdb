"""Payments that were scored and may not have reached the states yet: kept beside these, folded into them when they are read.

Until the flow has folded a payment, its state does not know it. So whoever scores a payment leaves it in a short list per key (account,
payee), with the columns the flow will derive for it, and whoever scores the next one of that key folds what the state lacks into a copy of
it, by the kernel that will fold it for good. What comes out is what the log will say.

A payment is in the states of all views of a key or in none, for they are written together. Whether it is, an exact view of the key
tells, whose rows have ids: that is why a key with tiled views alone has no list. What is found in the state, or too old to be missed, is
taken off the list.

    millstream:pending:<project>:<column>:<value>     sorted set by event time; a member is a payment as JSON:
    {"t": event time (us), "i": id (two words), "k": keys, "h": hashes, "v": values}

No I/O here: commands are given to whoever has the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from feature_repo.enrichment.derived import PAYMENT_PROGRAM, Derived
from feature_repo.windows.columns import Events, Floats, id_words, text_hash
from feature_repo.windows.exact_sum import LIMIT
from feature_repo.windows.header import HEADER, MAGIC, NOTHING
from feature_repo.windows.read import forgotten_before
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import ViewState

if TYPE_CHECKING:
    from feature_repo.stores.reader.plan import Plan

PAYMENTS: Final = "payments"
"""The stream whose events are scored."""
MOST: Final = 2_048
"""Payments of a key that are looked at, the latest: as many as an exact state holds by default. A key with more of them than that within
the flow's lag is flagged capped. A minute of 25 payments a second at one payee fits; each costs about ten microseconds while it is pending."""
_SLOT: Final = np.zeros(1, np.int64)

Row = Mapping[str, Any]
Lists = Sequence[Sequence[bytes]]
"""Per list of a payment, its members, as `keys` names them."""
_Resolve = Callable[[Row, Mapping[str, Any]], float]


@dataclass(frozen=True, slots=True)
class Found:
    """What the lists of a payment held.

    How many payments no state knew, per list the members that need not be kept any more, and the views of a key with more payments than
    are looked at.
    """

    missing: int
    settled: list[list[bytes]]
    capped: tuple[str, ...]


NOTHING_FOUND: Final = Found(0, [], ())


@dataclass(frozen=True, slots=True)
class _Waiting:
    member: bytes
    time_us: int
    id: tuple[int, int]
    keys: Mapping[str, str]
    hashes: Mapping[str, int]
    values: Mapping[str, float | None]


def list_prefix(project: str) -> str:
    """What the Redis keys of a project's lists begin with."""
    return f"millstream:pending:{project}:"


class Pending:
    """Compiled from a plan. `columns` are the lists a payment is in: one per column that is a key of its own."""

    def __init__(self, plan: Plan, request: Sequence[str]) -> None:
        """`request`: the columns a payment has itself."""
        self._prefix = list_prefix(plan.project)
        specs: list[tuple[ViewSpec, tuple[str, ...]]] = [
            (r.spec, r.entity_columns)
            for r in plan.windowed
            if r.stream == PAYMENTS and r.spec.join_keys == r.entity_columns
        ]
        resolvers = _Resolvers(plan, request)
        covered = [
            (spec, keys)
            for spec, keys in specs
            if all(
                resolvers.knows(c.removeprefix("?")) for c in (*spec.values, *spec.hashed, *spec.join_keys)
            )
        ]
        exact = [(keys, spec) for spec, keys in covered if not spec.tiled]
        witnesses = dict(
            sorted(exact, key=lambda found: found[1].retention_us)
        )  # the one that reaches furthest
        self._witness = witnesses
        alone = {keys[0] for keys in witnesses if len(keys) == 1}
        self._list_of = {
            keys: next(iter(sorted(alone.intersection(keys))), "")
            for keys in witnesses
            if alone.intersection(keys)
        }
        self._views = [(spec, keys) for spec, keys in covered if keys in self._list_of]
        self.columns = tuple(sorted({*self._list_of.values()}))
        self._keys = tuple(sorted({k for keys in self._list_of for k in keys}))
        self._hashed = tuple(sorted({c for spec, _ in self._views for c in spec.hashed}))
        self._values = tuple(
            (c, resolvers.of(c)) for c in sorted({c for spec, _ in self._views for c in spec.values})
        )

    @property
    def views(self) -> frozenset[str]:
        """The views whose answers know of pending payments."""
        return frozenset(spec.name for spec, _ in self._views)

    def keys(self, row: Row) -> list[bytes]:
        """The keys of a payment's lists, one per column of `columns`; what the payment lacks is an empty key."""
        prefix = self._prefix
        return [
            b"" if row.get(column) is None else f"{prefix}{column}:{row[column]}".encode()
            for column in self.columns
        ]

    def member(self, row: Row, named: Mapping[str, Any], event_id: str, t: int) -> bytes:
        """A payment as it stands in its lists; `named` are its features."""
        values = {column: resolve(row, named) for column, resolve in self._values}
        return orjson.dumps(
            {
                "t": t,
                "i": id_words(event_id),
                "k": {name: row.get(name) for name in self._keys},
                "h": {column: text_hash(row.get(column)) for column in self._hashed},
                "v": values,
            }
        )

    def fold(
        self, states: dict[str, bytes | None], row: Row, event_id: str, lists: Lists, t: int, now: int
    ) -> Found:
        """Fold into `states` (view: packed state, None for none) what they lack of the lists, and was before `t`."""
        done: list[list[bytes]] = [[] for _ in self.columns]
        capped: list[str] = []
        counted: set[tuple[int, int]] = set()
        waiting = dict(zip(self.columns, (_read(members) for members in lists), strict=True))
        own = id_words(event_id)
        for keys, column in self._list_of.items():
            known = waiting[column]
            if not known or any(row.get(k) is None for k in keys):
                continue
            mine = [w for w in known if all(w.keys.get(k) == row[k] for k in keys)]
            witness = self._witness[keys]
            missing, folded = _told_apart(mine, states[witness.name], witness)
            if keys == (column,):
                done[self.columns.index(column)] += folded
                if len(lists[self.columns.index(column)]) >= MOST and not folded:
                    capped += [spec.name for spec, k in self._views if k == keys]
            before = [w for w in missing if w.time_us < t and w.id != own]
            if before:
                counted.update(w.id for w in before)
                for spec, of in self._views:
                    if of == keys:
                        states[spec.name] = _folded(spec, states[spec.name], _events(spec, before), now)
        return Found(len(counted), done, tuple(capped))


class _Resolvers:
    """How a column of the log comes from a payment and its features: its own, a feature of that name, or a derived column's function."""

    def __init__(self, plan: Plan, request: Sequence[str]) -> None:
        self._request = frozenset(request)
        features = {f for r in plan.plain for f, _, _ in r.features}
        features |= {f for o in plan.on_demand for f, _ in o.outputs}
        windowed = {a.name: (a, r.spec) for r in plan.windowed for a in r.spec.aggregates}
        self._features = features | windowed.keys()
        self._windowed = list(windowed.values())
        self._derived = {step.name: step for step in PAYMENT_PROGRAM if isinstance(step, Derived)}
        self._contexts = {
            a.name: (a, step)
            for step in PAYMENT_PROGRAM
            if isinstance(step, ViewSpec)
            for a in step.aggregates
        }

    def knows(self, column: str) -> bool:
        return self._find(column) is not None

    def of(self, column: str) -> _Resolve:
        """The number of a column of `ViewSpec.values`; NaN is null."""
        if column.startswith("?"):
            found = self._find(column[1:])
            assert found is not None
            present = found

            def presence(row: Row, named: Mapping[str, Any]) -> float:
                value = present(row, named)
                return np.nan if value is None or value != value else 1.0  # noqa: PLR0124  NaN

            return presence
        found = self._find(column)
        assert found is not None
        return lambda row, named: _number(found(row, named))

    def _find(self, column: str) -> Callable[[Row, Mapping[str, Any]], Any] | None:
        if column in self._request:
            return lambda row, _: row.get(column)
        name = column if column in self._features else self._same_window(column)
        if name:
            return lambda _, named: named.get(name)
        if column not in self._derived:
            return None
        step = self._derived[column]
        inputs = [self._find(name) for name in step.inputs]
        if None in inputs:
            return None

        def derive(row: Row, named: Mapping[str, Any]) -> float:
            given = [np.array([_number(get(row, named))]) for get in inputs if get is not None]
            return float(step.function(*given)[0])

        return derive

    def _same_window(self, column: str) -> str:
        """A feature of the plan that is a context's under another name."""
        if column not in self._contexts:
            return ""
        asked, context = self._contexts[column]
        for a, spec in self._windowed:
            same = (a.function, a.column, a.window_us) == (asked.function, asked.column, asked.window_us)
            where = (spec.join_keys, spec.hop_us) == (context.join_keys, context.hop_us)
            if same and where and spec.capacity >= context.capacity:
                return a.name
        return ""


def _number(value: Any) -> float:
    """As the columns of a block hold it: beyond the limit of exact sums is null."""
    number = float("nan") if value is None else float(value)
    return number if abs(number) <= LIMIT else float("nan")


def _read(members: Sequence[bytes]) -> list[_Waiting]:
    """Each payment once, the first of those with its id."""
    found: dict[tuple[int, int], _Waiting] = {}
    for member in members:
        made = orjson.loads(member)
        key = made["i"][0], made["i"][1]
        if key not in found:
            found[key] = _Waiting(member, made["t"], key, made["k"], made["h"], made["v"])
    return list(found.values())


def _told_apart(
    waiting: Sequence[_Waiting], state: bytes | None, witness: ViewSpec
) -> tuple[list[_Waiting], list[bytes]]:
    """(those the state lacks, the members of the others). What it would have forgotten by now counts as known."""
    if state is None or len(state) < 8 * HEADER:
        return list(waiting), []
    words = np.frombuffer(state, np.int64)
    rows, width = int(words[2]), witness.layout.n_ints
    forgotten = max(int(words[4]), int(words[5]) - witness.retention_us - 1)
    ints = words[HEADER : HEADER + rows * width].reshape(rows, width)
    missing, folded = [], []
    for w in waiting:
        if w.time_us <= forgotten:
            folded.append(w.member)
            continue
        first, last = np.searchsorted(ints[:, 0], (w.time_us, w.time_us + 1))
        if any((int(ints[i, 1]), int(ints[i, 2])) == w.id for i in range(first, last)):
            folded.append(w.member)
        else:
            missing.append(w)
    return missing, folded


def _events(spec: ViewSpec, waiting: Sequence[_Waiting]) -> Events:
    ints = np.array(
        [[w.time_us, *w.id, *(w.hashes.get(c, 0) for c in spec.hashed)] for w in waiting], np.int64
    )
    floats: Floats = np.array(
        [[np.nan if (v := w.values.get(c)) is None else v for c in spec.values] for w in waiting], np.float64
    ).reshape(len(waiting), len(spec.values))
    return Events(ints, floats)


def _folded(spec: ViewSpec, state: bytes | None, events: Events, now: int) -> bytes:
    """A copy of a packed state with events folded into it."""
    if state is not None and (len(state) % 8 or len(state) < 8 * HEADER):
        return state  # no state of ours: whoever finishes it refuses it
    if state is None:
        floor = forgotten_before(spec, now)
        state = np.array([MAGIC, spec.fingerprint, 0, 0, floor, NOTHING, 0, 0], np.int64).tobytes()
    copy = ViewState(spec)
    copy.load(_SLOT, np.frombuffer(state, np.uint8), np.array([0, len(state)], np.int64))
    copy.fold(np.zeros(len(events), np.int64), events)
    packed, _ = copy.pack(_SLOT)
    return packed.tobytes()
