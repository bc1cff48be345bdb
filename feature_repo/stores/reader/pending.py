"""Payments that were scored but may not be folded into the states yet.

They are listed per key, and folded in when states are read.

Until the flow has folded a payment, the states do not contain it. So a scorer adds each payment it scores to a short
list per key (account, payee), with the columns that the flow will derive for it. The next scorer that reads one of
these keys folds what the state lacks into a copy of it, with the flow's own kernel, so the values equal those
computed from the log later.

A payment is in the states of all views of a key or in none, because they are written together. Whether it is in them
is seen in an exact view of the key, whose rows have ids; a key that has only tiled views therefore has no list. A
payment that the state holds, or that is too old for it, is taken off the list.

    millstream:pending:<project>:<column>:<value>     sorted set by event time; a member is a payment as JSON:
    {"t": event time (us), "i": id (two words), "k": keys, "h": hashes, "v": values}

This module does no I/O: the caller reads and writes the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from feature_repo.enrichment.derived import Derived
from feature_repo.streams.payments import PAYMENTS
from feature_repo.windows.columns import Events, id_words, text_hash
from feature_repo.windows.kernels.exact_sum import LIMIT
from feature_repo.windows.read import expired_before
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import fold_packed, has_folded

if TYPE_CHECKING:
    from feature_repo.stores.reader.plan import Plan

MAX_LISTED: Final = 2_048
"""Only the latest payments of a list are read, at most this many: as many as an exact state holds by default.

A key with more of them within the flow's lag is flagged capped. This is enough for a minute of 25 payments a second
at one payee; each costs about ten microseconds while it is pending.
"""

Row = Mapping[str, Any]
Lists = Sequence[Sequence[bytes]]
"""The members of each of a payment's lists, in the order of `Pending.keys`."""
_Resolve = Callable[[Row, Mapping[str, Any]], float]


@dataclass(frozen=True, slots=True)
class Found:
    """What the lists of a payment held.

    `missing`: number of payments that the states lacked. `settled`: per list, the members to remove from it.
    `capped`: the views of a key with more than `MAX_LISTED` payments.
    """

    missing: int
    settled: list[list[bytes]]
    capped: tuple[str, ...]


NOTHING_FOUND: Final = Found(0, [], ())


@dataclass(frozen=True, slots=True)
class _Listed:
    """One payment of a list."""

    member: bytes
    time_us: int
    id: tuple[int, int]
    keys: Mapping[str, str]
    hashes: Mapping[str, int]
    values: Mapping[str, float | None]


def list_prefix(project: str) -> str:
    """Return the prefix of the Redis keys of a project's lists."""
    return f"millstream:pending:{project}:"


class Pending:
    """The pending lists of a plan.

    A payment is in one list per column of `columns`, the columns that are a key by themselves.
    """

    def __init__(self, plan: Plan, request: Sequence[str]) -> None:
        """`request` names the columns of a payment in a request."""
        self._prefix = list_prefix(plan.project)
        resolvers = _Resolvers(plan, request)
        specs = [
            r.spec
            for r in plan.windowed
            if r.stream == PAYMENTS.name and r.spec.join_keys == r.entity_columns and resolvers.know(r.spec)
        ]
        exact = sorted((spec for spec in specs if not spec.tiled), key=lambda spec: spec.retention_us)
        self._exact = {spec.join_keys: spec for spec in exact}
        """Keys -> the exact view with the longest retention, in which folded payments are looked up."""
        single = {keys[0] for keys in self._exact if len(keys) == 1}
        self._list_of = {
            keys: min(single.intersection(keys)) for keys in self._exact if single.intersection(keys)
        }
        """Keys -> the column whose list holds the payments of these keys."""
        self._specs = [spec for spec in specs if spec.join_keys in self._list_of]
        self.columns = tuple(sorted({*self._list_of.values()}))
        self._keys = tuple(sorted({k for keys in self._list_of for k in keys}))
        self._hashed = tuple(sorted({c for spec in self._specs for c in spec.hashed}))
        values = sorted({c for spec in self._specs for c in spec.values})
        self._values = tuple((column, resolvers.of(column)) for column in values)

    @property
    def views(self) -> frozenset[str]:
        """The views that pending payments are folded into."""
        return frozenset(spec.name for spec in self._specs)

    def keys(self, row: Row) -> list[bytes]:
        """Return the Redis keys of a payment's lists, one per column of `columns`.

        A key is empty where the payment has no value.
        """
        prefix = self._prefix
        return [
            b"" if row.get(column) is None else f"{prefix}{column}:{row[column]}".encode()
            for column in self.columns
        ]

    def member(self, row: Row, named: Mapping[str, Any], event_id: str, t: int) -> bytes:
        """Return a payment as a member of its lists; `named` are its features, `t` its event time (us)."""
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
        """Fold the pending payments of the lists that were before `t` and that the states lack into `states`.

        `states`: view -> packed state, None if nothing is stored; changed in place. `row` and `event_id` describe the
        payment that is being scored, which is not folded itself. `t` is its event time, `now` the wall clock (us).
        Raises `StateError` for bytes that are not a state of their view.
        """
        settled: list[list[bytes]] = [[] for _ in self.columns]
        capped: list[str] = []
        counted: set[tuple[int, int]] = set()
        listed = dict(zip(self.columns, (_parse(members) for members in lists), strict=True))
        own = id_words(event_id)
        for keys, column in self._list_of.items():
            if not listed[column] or any(row.get(k) is None for k in keys):
                continue
            mine = [p for p in listed[column] if all(p.keys.get(k) == row[k] for k in keys)]
            folded = _has_folded(self._exact[keys], states, mine)
            if keys == (column,):
                number, known = self.columns.index(column), list(compress(mine, folded))
                settled[number] = [p.member for p in known]
                if len(lists[number]) >= MAX_LISTED and not known:
                    capped += [spec.name for spec in self._specs if spec.join_keys == keys]
            missing = compress(mine, ~folded)
            before = [p for p in missing if p.time_us < t and p.id != own]
            if before:
                counted.update(p.id for p in before)
                for spec in self._specs:
                    if spec.join_keys == keys:
                        events, floor = _events(spec, before), expired_before(spec, now)
                        states[spec.name] = fold_packed(states[spec.name], spec, events, floor)
        return Found(len(counted), settled, tuple(capped))


class _Resolvers:
    """How the columns of the log are computed for a payment that is not in the log yet.

    A column is one of the request, a feature of the same name, or derived by the flow's own function.
    """

    def __init__(self, plan: Plan, request: Sequence[str]) -> None:
        self._request = frozenset(request)
        features = {f for r in plan.plain for f, _, _ in r.features}
        features |= {f for o in plan.on_demand for f, _ in o.outputs}
        windowed = {a.name: (a, r.spec) for r in plan.windowed for a in r.spec.aggregates}
        self._features = features | windowed.keys()
        self._windowed = list(windowed.values())
        self._derived = {step.name: step for step in PAYMENTS.program if isinstance(step, Derived)}
        self._contexts = {
            a.name: (a, step)
            for step in PAYMENTS.program
            if isinstance(step, ViewSpec)
            for a in step.aggregates
        }

    def know(self, spec: ViewSpec) -> bool:
        """Return whether all columns that a view reads can be computed."""
        return all(self._find(c) is not None for c in (*spec.columns, *spec.join_keys))

    def of(self, column: str) -> _Resolve:
        """Return the function that computes a column of `ViewSpec.values` as a float, null = NaN."""
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
        """Return the feature of the plan that equals a column of the program's contexts, "" if there is none."""
        if column not in self._contexts:
            return ""
        wanted, context = self._contexts[column]
        for a, spec in self._windowed:
            same = (a.function, a.column, a.window_us) == (wanted.function, wanted.column, wanted.window_us)
            where = (spec.join_keys, spec.hop_us) == (context.join_keys, context.hop_us)
            if same and where and spec.capacity >= context.capacity:
                return a.name
        return ""


def _number(value: Any) -> float:
    """Return a value as `BlockColumns.values` does: a float, NaN for null and beyond the limit of exact sums."""
    number = float("nan") if value is None else float(value)
    return number if abs(number) <= LIMIT else float("nan")


def _parse(members: Sequence[bytes]) -> list[_Listed]:
    """Return each payment once: the first one of every id."""
    found: dict[tuple[int, int], _Listed] = {}
    for member in members:
        made = orjson.loads(member)
        key = made["i"][0], made["i"][1]
        if key not in found:
            found[key] = _Listed(member, made["t"], key, made["k"], made["h"], made["v"])
    return list(found.values())


def _has_folded(
    spec: ViewSpec, states: Mapping[str, bytes | None], listed: Sequence[_Listed]
) -> npt.NDArray[np.bool_]:
    times = np.array([p.time_us for p in listed], np.int64)
    ids = np.array([p.id for p in listed], np.int64).reshape(-1, 2)
    return has_folded(states[spec.name], spec, times, ids)


def _events(spec: ViewSpec, listed: Sequence[_Listed]) -> Events:
    ints = [[p.time_us, *p.id, *(p.hashes.get(c, 0) for c in spec.hashed)] for p in listed]
    floats = [[np.nan if (v := p.values.get(c)) is None else v for c in spec.values] for p in listed]
    return Events(
        np.array(ints, np.int64), np.array(floats, np.float64).reshape(len(listed), len(spec.values))
    )
