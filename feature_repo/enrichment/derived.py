"""Derived columns, as programs: what is computed of an event, in order, when it is accepted. One value per event.

A step is a window (`ViewSpec`), read as of the event and then given the event, or a column (`Derived`) computed from
what is there by then: the event's own columns, joined columns, features of windows above it and derived columns above
it. So a derived column may be an input of another one, and one pass computes them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from feature_repo.enrichment.functions import Floats
from feature_repo.windows.spec import ViewSpec


@dataclass(frozen=True)
class Derived:
    """One column, computed by `function` from float64 arrays in which NaN is null; times are microseconds in UTC.

    The stream's declaration has its type.
    """

    name: str
    inputs: tuple[str, ...]
    function: Callable[..., Floats]


Step = ViewSpec | Derived
