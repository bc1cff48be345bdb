"""One aggregate of a windowed view, and the event column that its function reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feature_repo.windows.functions import PRESENCE_FUNCTIONS, VALUE_FUNCTIONS


@dataclass(frozen=True)
class Aggregate:
    """One feature: `function` over `column` in the half-open window `[t - window_us, t)`; tiled: whole hops of it."""

    name: str
    function: str
    column: str
    window_us: int

    def value_column(self, values: Sequence[str]) -> str | None:
        """Return which of a view's value columns this aggregate reads; None if it reads all rows, or hashes.

        `values`: `ViewSpec.values`. A name that starts with "?" is a presence column (see `ViewSpec`).
        """
        if self.function in VALUE_FUNCTIONS:
            return self.column
        if self.function in PRESENCE_FUNCTIONS:
            return next((name for name in (self.column, "?" + self.column) if name in values), None)
        return None
