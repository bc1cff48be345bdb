"""Check rows: the checks of a stream's declaration, compiled to Arrow compute functions and applied to every row.

One list of rules has two users: training validates whole tables with Great Expectations (GX), the flow checks each row
on ingestion. `EventStream.suite` states them as a GX 1.x suite. `SUPPORTED` lists the expectations that can be
compiled; any other is an error at start, so no rule is silently skipped. As in GX, a null passes every rule except the
one about nulls, and NaN counts as null.

A row that fails becomes a dead letter `check` whose detail names each field, the value and the rule it breaks. A block
without bad rows costs one vectorised pass per rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import DefinitionError
from flows.blocks import Events, Mask
from flows.privacy.redaction import Describe, show

CHECK = "check"
"""Reason of a row that breaks a rule of the suite."""

Rule = Callable[[pa.Array], Mask | None]
"""Takes a column, returns the mask of the rows that break the rule; None if no row does."""


@dataclass(frozen=True)
class RowCheck:
    """One expectation about one column, compiled."""

    column: str
    rule: str
    failing: Rule


class Checker:
    """Applies a suite to decoded events. `describe` makes the text about a value for the detail of a dead letter."""

    def __init__(self, checks: list[RowCheck], describe: Describe = show) -> None:
        self._checks = checks
        self._describe = describe

    def __call__(self, events: Events) -> Events:
        """Return the events; rows that break a rule become dead letters."""
        if not events.rows.num_rows:
            return events
        failed: dict[int, list[str]] = {}
        for check in self._checks:
            column = events.rows.column(check.column)
            failing = check.failing(column)
            if failing is None:
                continue
            for row in np.flatnonzero(failing).tolist():
                value = column[row].as_py()
                failed.setdefault(row, []).append(
                    f"{check.column}: {self._describe(check.column, value)} {check.rule}"
                )
        if not failed:
            return events
        bad = np.zeros(events.rows.num_rows, bool)
        bad[list(failed)] = True
        return events.reject(bad, [CHECK] * len(failed), ["; ".join(failed[row]) for row in sorted(failed)])


def compile_suite(suite: Mapping[str, Any], schema: pa.Schema) -> list[RowCheck]:
    """Compile the suite of a stream (`EventStream.suite`) for rows of its schema.

    Raises `DefinitionError` for an expectation that cannot be a row check.
    """
    return [
        _compile(one["type"], dict(one["kwargs"]), schema, f"row checks of {suite['name']}")
        for one in suite["expectations"]
    ]


def _compile(kind: str, kwargs: dict[str, Any], schema: pa.Schema, where: str) -> RowCheck:
    column = kwargs.pop("column", None)
    if kind not in SUPPORTED or column not in schema.names or kwargs.pop("mostly", 1) != 1:
        raise DefinitionError(
            f"expectation {kind} on column {column!r} cannot be a row check",
            where=where,
            todo=f"use a column of the schema, mostly=1, and one of: {', '.join(sorted(SUPPORTED))}",
        )
    try:
        rule, failing = SUPPORTED[kind](schema.field(column).type, **kwargs)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DefinitionError(
            f"expectation {kind} on column {column!r} has arguments we cannot compile: {error}",
            where=where,
            todo="remove the argument, or implement it in flows/accept/check.py",
        ) from error
    return RowCheck(column, rule, failing)


def _not_null(kind: pa.DataType) -> tuple[str, Rule]:
    floating = pa.types.is_floating(kind)

    def failing(column: pa.Array) -> Mask | None:
        if floating:
            return _any(np.isnan(_numbers(column)))
        return np.asarray(column.is_null().to_numpy(zero_copy_only=False)) if column.null_count else None

    return "must not be null", failing


def _in_set(kind: pa.DataType, *, value_set: list[Any]) -> tuple[str, Rule]:
    options = pc.SetLookupOptions(pa.array([*value_set, None], kind))

    def failing(column: pa.Array) -> Mask | None:
        known = pc.call_function("is_in", [column], options)
        return _any(~known.to_numpy(zero_copy_only=False))

    return f"is not one of {', '.join(map(str, value_set))}", failing


def _between(
    kind: pa.DataType,
    *,
    min_value: float | None = None,
    max_value: float | None = None,
    strict_min: bool = False,
    strict_max: bool = False,
) -> tuple[str, Rule]:
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        msg = f"a column of type {kind} has no range of numbers"
        raise TypeError(msg)
    out_of_range = _out_of_range(min_value, max_value, strict_min=strict_min, strict_max=strict_max)
    return f"is not between {min_value} and {max_value}", lambda column: out_of_range(_numbers(column))


def _matches(kind: pa.DataType, *, regex: str) -> tuple[str, Rule]:
    # In Python, and so in GX, a final $ forgives one newline at the end of the text; in RE2 it does not.
    forgiving = regex[:-1] + r"\n?\z" if re.search(r"(?<!\\)(\\\\)*\$$", regex) else regex
    options = pc.MatchSubstringOptions(forgiving)
    pc.call_function(
        "match_substring_regex", [pa.array(["x"], kind)], options
    )  # RE2 refuses at start what it cannot do

    def failing(column: pa.Array) -> Mask | None:
        found = pc.call_function("match_substring_regex", [column], options)
        return _any(~np.asarray(found.fill_null(True).to_numpy(zero_copy_only=False), bool))

    return f"does not match {regex}", failing


def _length(
    kind: pa.DataType, *, min_value: int | None = None, max_value: int | None = None
) -> tuple[str, Rule]:
    pc.utf8_length(pa.array(["x"], kind))
    out_of_range = _out_of_range(min_value, max_value)

    def failing(column: pa.Array) -> Mask | None:
        return out_of_range(_numbers(pc.call_function("utf8_length", [column])))

    return f"does not have {min_value} to {max_value} characters", failing


def _out_of_range(
    low: float | None, high: float | None, *, strict_min: bool = False, strict_max: bool = False
) -> Callable[[npt.NDArray[Any]], Mask | None]:
    """Make a rule that masks numbers outside a range.

    A null is NaN here; comparisons with NaN are false, so it passes.
    """
    if low is None and high is None:
        msg = "min_value or max_value is needed"
        raise ValueError(msg)

    def outside(values: npt.NDArray[Any]) -> Mask | None:
        bad = np.zeros(len(values), bool)
        if low is not None:
            bad |= (values <= low) if strict_min else (values < low)
        if high is not None:
            bad |= (values >= high) if strict_max else (values > high)
        return _any(bad)

    return outside


SUPPORTED: dict[str, Callable[..., tuple[str, Rule]]] = {
    "expect_column_values_to_not_be_null": _not_null,
    "expect_column_values_to_be_in_set": _in_set,
    "expect_column_values_to_be_between": _between,
    "expect_column_values_to_match_regex": _matches,
    "expect_column_value_lengths_to_be_between": _length,
}
"""The expectation types that can be row checks."""


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    """Return a column as NumPy numbers, null as NaN."""
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _any(mask: Mask) -> Mask | None:
    return mask if mask.any() else None
