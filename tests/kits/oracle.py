"""A naive implementation of every window function: plain Python over a list of events, with exact fractions.

One answer per (function, column, window, key, t). Tests compare the compiled kernels with it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from feature_repo.windows.spec import QUANTILES, Aggregate, ViewSpec


@dataclass(frozen=True)
class Event:
    """One event of a key; `values` maps column to number, string or None."""

    ts: int
    event_id: str
    key: str
    values: dict[str, Any]


def answer(events: Iterable[Event], spec: ViewSpec, a: Aggregate, key: str, t: int) -> float:
    """The feature `a` of `key` as of `t`; NaN for null."""
    return _value(_inside(events, spec, a, key, t), spec, a, t)


def agrees(value: float, events: Iterable[Event], spec: ViewSpec, a: Aggregate, key: str, t: int) -> bool:
    """Whether a kernel's value equals the answer up to rounding, a quantile up to 1 % of it."""
    inside = _inside(events, spec, a, key, t)
    wanted = _value(inside, spec, a, t)
    if math.isnan(wanted) or math.isnan(value):
        return math.isnan(wanted) and math.isnan(value)
    slack = 4e-16 * abs(wanted)
    if a.function in QUANTILES:
        slack = 0.010_000_001 * abs(wanted) if abs(wanted) >= 1e-9 else 1e-9
    elif a.function == "decayed_sum":  # every term is rounded
        slack = 4e-15 * sum(abs(e.values[a.column] or 0.0) for e in inside) + 1e-18
    return abs(value - wanted) <= slack


def _inside(events: Iterable[Event], spec: ViewSpec, a: Aggregate, key: str, t: int) -> list[Event]:
    own = sorted((e for e in set_of(events) if e.key == key and e.ts < t), key=lambda e: (e.ts, e.event_id))
    if spec.tiled:
        h = spec.hop_us
        start, end = (t - a.window_us) // h * h, t // h * h
        return [e for e in own if start <= e.ts < end]
    return [e for e in own[-spec.capacity :] if e.ts >= t - a.window_us]


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
            times = [e.ts for e, v in zip(inside, column, strict=True) if v is not None]
            return (t - times[-1]) / 1e6 if times else math.nan
        case "count_since":
            newest = [i for i, v in enumerate(column) if v is not None]
            return float(len(inside) - 1 - newest[-1]) if newest else math.nan
        case "decayed_sum":
            ages = [(t - e.ts) / (a.window_us / 4) for e in inside]
            return math.fsum(v * 2.0**-age for v, age in zip(column, ages, strict=True) if v is not None)
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
        case "last_2" | "last_3":
            n = int(a.function[-1])
            return float(known[-n]) if len(known) >= n else math.nan
        case "median" | "p90" | "p95" | "p99":
            return float(sorted(known)[(len(known) - 1) * QUANTILES[a.function] // 100])
    if len(exact) < 2:
        return math.nan
    var = float(sum((x - mean) ** 2 for x in exact) / (len(exact) - 1))
    return math.sqrt(var) if a.function == "std" else var


def _hops(inside: list[Event], spec: ViewSpec) -> dict[int, list[Event]]:
    hops: dict[int, list[Event]] = {}
    for e in inside:
        hops.setdefault(e.ts // spec.hop_us, []).append(e)
    return hops
