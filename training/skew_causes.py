"""Find out why a live vector differs from the one computed from the event log.

A cause is proved where that is possible: exactly the events that the online state had folded are folded again, and
must give the logged values. Views that only an on-demand view reads, and joined rows, are not in the score log: their
cause can be named but not proved.
"""

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.stores.event_log.read import read_log
from feature_repo.stores.reader.plan import PlainRead, Plan, WindowedRead
from feature_repo.streams.payments import PAYMENTS
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.history.answer import features_at
from training.feature_matrix import PAYMENT_KEY

if TYPE_CHECKING:
    from feast import FeatureStore

CONCURRENT: Final = "concurrent_requests"
FLOW_LAG: Final = "flow_lag"
ACCEPTED_LATER: Final = "accepted_later"
NEWER_ROW: Final = "newer_row"
BEYOND_STATE: Final = "beyond_state"
UNEXPLAINED: Final = "unexplained"
MOST_MISSING: Final = 6
"""If the state lacked more events than this, no proof is tried: there are too many combinations."""
LAG_US: Final = 60_000_000
"""A joined row that was accepted at most so long before a score may not have been in the online store yet."""
CAUSES: Final[Mapping[str, str]] = {
    CONCURRENT: "another request of the same key was being scored at the same time",
    FLOW_LAG: "the flow had accepted, but not yet folded, an earlier event of the same key",
    ACCEPTED_LATER: "an earlier event of the same key was accepted only after the score was given",
    NEWER_ROW: "the online store held a version of a customer, merchant or charge that is newer than the payment",
    BEYOND_STATE: "the payment is older than what the online state can answer; the answer said so",
    UNEXPLAINED: "none of these: a defect, please report it",
}
"""Cause -> meaning. If the views of one vector have several causes, the last one of them in this order is reported."""

Score = dict[str, Any]
"""One line of the score log."""
Cause = tuple[str, bool]
"""A key of `CAUSES`, and whether it is proved."""


def same(live: Any, log: Any) -> bool:
    """Return whether two values are equal to the last bit; null equals null and NaN."""
    return _number(live) == _number(log) if _number(live) is not None else _number(log) is None


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


class Evidence:
    """The logged events of all keys whose vectors differ, in the order in which they were accepted."""

    def __init__(
        self,
        store: "FeatureStore",
        logs: Path,
        plan: Plan,
        scores: Sequence[Score],
        requests: Sequence[Score] = (),
    ) -> None:
        """Read the logs of the streams of all views of the plan.

        `logs` is the folder of the logs, `scores` are those whose vectors differ, `requests` all scores there are.
        """
        self._plan = plan
        self._requests = sorted(requests, key=_began)
        self._begins = [_began(request) for request in self._requests]
        self._longest = max((r["scored_at"] - _began(r) for r in self._requests), default=0)
        self._windowed: dict[str, pa.Table] = {}
        self._plain: dict[str, pa.Table] = {}
        if not scores:
            return
        from feature_repo.stores.online.feast_store import stream_of

        tables: dict[tuple[str, tuple[str, ...]], pa.Table] = {}
        views = {read.spec.name: _view(store, read.spec.name) for read in plan.windowed}
        for read in plan.windowed:
            kind = (stream_of(views[read.spec.name]), read.spec.join_keys)
            if kind not in tables:
                alike = [
                    r.spec for r in plan.windowed if (stream_of(views[r.spec.name]), r.spec.join_keys) == kind
                ]
                columns = {c for spec in alike for c in (*spec.columns, spec.id_column)}
                tables[kind] = _accepted(
                    logs / kind[0], read.spec.join_keys, read.entity_columns, columns, scores
                )
            self._windowed[read.spec.name] = tables[kind]
        for plain in plan.plain:
            source = _view(store, plain.name).batch_source
            in_log = {new: old for old, new in source.field_mapping.items()}
            keys = tuple(in_log.get(key, key) for key in plain.join_keys)
            log = logs / stream_of(_view(store, plain.name))
            self._plain[plain.name] = _accepted(log, keys, plain.entity_columns, set(), scores)

    def cause(self, score: Score, names: Sequence[str]) -> Cause:
        """Return why the features `names` of a score differ; every view that holds one of them must have a cause."""
        differing = set(names)
        direct = {r.spec.name: r for r in self._plan.windowed if differing & set(r.spec.feature_names)}
        shown = {p.name: p for p in self._plan.plain if differing & {f for f, _, _ in p.features}}
        found = [self._of_windows(r, score) for r in direct.values()]
        found += [self._of_row(p, score) for p in shown.values()]
        for made in self._plan.on_demand:
            read = {view for _, view in made.inputs if view}
            if differing & {name for name, _ in made.outputs} and not read & {*direct, *shown}:
                found.append(self._of_any(read, score))
        if not found:
            return UNEXPLAINED, False
        worst = max(found, key=lambda pair: list(CAUSES).index(pair[0]))[0]
        return worst, all(proved for _, proved in found)

    def _of_any(self, views: set[str], score: Score) -> Cause:
        """Return the cause of one of `views`; one is enough where no feature of theirs is in the score log."""
        found = [self._of_windows(r, score) for r in self._plan.windowed if r.spec.name in views]
        found += [self._of_row(p, score) for p in self._plan.plain if p.name in views]
        return min(found, key=lambda pair: list(CAUSES).index(pair[0]), default=(UNEXPLAINED, False))

    def _of_windows(self, read: WindowedRead, score: Score) -> Cause:
        spec = read.spec
        if spec.name in score["flags"]["incomplete"]:
            return BEYOND_STATE, True
        events = _of_key(self._windowed[spec.name], spec.join_keys, read.entity_columns, score)
        logged = any(name in score["features"] for name in spec.feature_names)
        concurrent = self._concurrent(read, score)
        if concurrent and (not logged or _misses_some(read, events, concurrent, score)):
            return CONCURRENT, logged
        accepted = pc.less_equal(events["created_timestamp"], _time(score["scored_at"]))
        n_accepted, folded = int(pc.sum(accepted).as_py() or 0), int(score["versions"].get(spec.name, 0))
        if folded < n_accepted:
            known = events.filter(accepted)
            few = n_accepted - folded <= MOST_MISSING
            proved = (
                few
                and logged
                and any(_reproduces(read, part, score) for part in _without(known, n_accepted - folded))
            )
            return (FLOW_LAG, proved) if proved or not few or not logged else (UNEXPLAINED, False)
        before = pc.less(events["event_timestamp"], _time(score["as_of"]))
        later = pc.any(pc.and_(before, pc.invert(accepted))).as_py()
        fits = _reproduces(read, events.slice(0, folded), score)
        return (ACCEPTED_LATER, logged) if later and fits else (UNEXPLAINED, False)

    def _concurrent(self, read: WindowedRead, score: Score) -> list[str]:
        """Return the ids of earlier payments of a view's key whose requests overlapped this one, by their beginning."""
        if read.stream != PAYMENTS.name:
            return []
        began, ended = _began(score), int(score["scored_at"])
        columns = list(zip(read.spec.join_keys, read.entity_columns, strict=True))
        low = bisect.bisect_left(self._begins, began - self._longest)
        return [
            other["event_id"]
            for other in self._requests[low : bisect.bisect_left(self._begins, ended)]
            if other["scored_at"] > began
            and other["as_of"] < score["as_of"]
            and all(_value(other, key) == _value(score, column) for key, column in columns)
        ]

    def _of_row(self, read: PlainRead, score: Score) -> Cause:
        """Return the cause of a joined row.

        The log gives the latest row that is not after the payment; the online store held the latest one written by
        then.
        """
        rows = self._plain[read.name]
        rows = _of_key(rows, rows.column_names[: len(read.join_keys)], read.entity_columns, score)
        at = rows["event_timestamp"].cast(pa.int64()).to_numpy()
        accepted = rows["created_timestamp"].cast(pa.int64()).to_numpy()
        scored = int(score["scored_at"])
        if ((at > score["as_of"]) & (accepted <= scored)).any():
            return NEWER_ROW, False
        before = accepted[at <= score["as_of"]]
        if (before > scored).any():
            return ACCEPTED_LATER, False
        return (FLOW_LAG if (before > scored - LAG_US).any() else UNEXPLAINED), False


def _view(store: "FeatureStore", name: str) -> Any:
    return store.registry.get_any_feature_view(name, store.project)


def _began(score: Score) -> int:
    """When the request arrived (us); for a log that does not say so, when it was scored."""
    return int(score.get("arrived_at") or score["scored_at"])


def _value(score: Score, column: str) -> Any:
    """Return a column of the scored payment; its id as an entity has another name."""
    return score["event_id"] if column == PAYMENT_KEY else score.get(column)


def _time(us: int) -> pa.Scalar:
    return pa.scalar(us, pa.timestamp("us", "UTC"))


def _accepted(
    log: Path, keys: Sequence[str], entity_columns: Sequence[str], columns: set[str], scores: Sequence[Score]
) -> pa.Table:
    """Return the rows of a log whose first key is that of a score, key columns first, in order of acceptance."""
    place = ("created_timestamp", "source_partition", "source_offset")
    wanted = [*keys, *sorted({*columns, "event_timestamp", *place} - set(keys))]
    asked = pa.array({_value(score, entity_columns[0]) for score in scores}, pa.string())
    table = read_log(log, wanted)
    if not table.num_rows:
        times = dict.fromkeys(("event_timestamp", "created_timestamp"), pa.timestamp("us", "UTC"))
        return pa.table({name: pa.nulls(0, times.get(name, pa.string())) for name in wanted})
    table = table.select([name for name in wanted if name in table.column_names])
    table = table.filter(pc.is_in(table[keys[0]], asked))
    return table.sort_by([(column, "ascending") for column in place])


def _of_key(rows: pa.Table, keys: Sequence[str], entity_columns: Sequence[str], score: Score) -> pa.Table:
    for key, column in zip(keys, entity_columns, strict=True):
        rows = rows.filter(pc.equal(rows[key], pa.scalar(_value(score, column), pa.string())))
    return rows


def _without(events: pa.Table, missing: int) -> Iterator[pa.Table]:
    """Yield every way to leave out `missing` events at the ends of partitions.

    The flow folds each partition in order, but may be further ahead in one of them than in another.
    """
    partitions = sorted(set(events["source_partition"].to_pylist()))
    parts = [events.filter(pc.equal(events["source_partition"], p)) for p in partitions]
    for cuts in itertools.product(range(missing + 1), repeat=len(parts)):
        if sum(cuts) == missing and all(cut <= len(part) for cut, part in zip(cuts, parts, strict=True)):
            yield pa.concat_tables(
                [part.slice(0, len(part) - cut) for cut, part in zip(cuts, parts, strict=True)]
            )


def _misses_some(read: WindowedRead, events: pa.Table, ids: Sequence[str], score: Score) -> bool:
    """Return whether the view's logged values are those of all events without some of the last of `ids`."""
    column = events[read.spec.id_column]
    latest = ids[-MOST_MISSING:]
    for missing in range(1, len(latest) + 1):
        for left_out in itertools.combinations(latest, missing):
            kept = pc.invert(pc.is_in(column, pa.array(left_out, pa.string())))
            if _reproduces(read, events.filter(kept), score):
                return True
    return False


def _reproduces(read: WindowedRead, events: pa.Table, score: Score) -> bool:
    """Return whether the view's logged values are those of exactly these events."""
    spec = read.spec
    wanted = pa.table(
        {
            k: pa.array([_value(score, c)], pa.string())
            for k, c in zip(spec.join_keys, read.entity_columns, strict=True)
        }
    )
    block = BlockColumns(events.combine_chunks())
    values, _ = features_at(
        spec,
        block.keys(spec.join_keys),
        block.events(spec),
        BlockColumns(wanted).keys(spec.join_keys),
        np.array([score["as_of"]], np.int64),
    )
    live = score["features"]
    return all(same(live.get(n, v), v) for n, v in zip(spec.feature_names, values[0].tolist(), strict=True))
