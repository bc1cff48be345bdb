"""The naive meaning of every window function: plain Python over a list of events, exact fractions, no cleverness.

One answer per (function, column, window, key, t). The compiled kernels are held against this.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from feature_repo.windows.spec import Aggregate, ViewSpec


@dataclass(frozen=True)
class Event:
    """One event of a key; `values` maps column to number, string or None."""

    ts: int
    event_id: str
    key: str
    values: dict[str, Any]


def answer(events: Iterable[Event], spec: ViewSpec, a: Aggregate, key: str, t: int) -> float:
    """The feature `a` of `key` as of `t`; NaN for null."""
    own = sorted((e for e in set_of(events) if e.key == key and e.ts < t), key=lambda e: (e.ts, e.event_id))
    if spec.tiled:
        h = spec.hop_us
        start, end = (t - a.window_us) // h * h, t // h * h
        inside = [e for e in own if start <= e.ts < end]
    else:
        inside = [e for e in own[-spec.capacity :] if e.ts >= t - a.window_us]
    return _value(inside, spec, a, t)


def set_of(events: Iterable[Event]) -> list[Event]:
    return list({e.event_id: e for e in events}.values())


def _value(inside: list[Event], spec: ViewSpec, a: Aggregate, t: int) -> float:
    column = [e.values.get(a.column, e.event_id) for e in inside]
    known = [v for v in column if v is not None]
    match a.function:
        case "count":
            return float(len(known))
        case "count_distinct":
            return float(len(set(known)))
        case "seconds_since_last":
            return (t - inside[-1].ts) / 1e6 if inside else math.nan
        case "mean_hop_count":
            hops = _hops(inside, spec)
            return float(Fraction(len(inside), len(hops))) if hops else math.nan
        case "mean_hop_max":
            maxima = [
                max(vs)
                for h in _hops(inside, spec).values()
                if (vs := [e.values[a.column] for e in h if e.values[a.column] is not None])
            ]
            return float(sum(map(Fraction, maxima)) / len(maxima)) if maxima else math.nan
        case "sum":
            return float(sum(map(Fraction, known), Fraction(0)))
    if not known:
        return math.nan
    exact = [Fraction(v) for v in known]
    mean = sum(exact, Fraction(0)) / len(exact)
    match a.function:
        case "mean":
            return float(mean)
        case "min":
            return float(min(known))
        case "max":
            return float(max(known))
        case "first":
            return float(known[0])
        case "last":
            return float(known[-1])
    if len(exact) < 2:
        return math.nan
    var = float(sum((x - mean) ** 2 for x in exact) / (len(exact) - 1))
    return math.sqrt(var) if a.function == "std" else var


def _hops(inside: list[Event], spec: ViewSpec) -> dict[int, list[Event]]:
    hops: dict[int, list[Event]] = {}
    for e in inside:
        hops.setdefault(e.ts // spec.hop_us, []).append(e)
    return hops
