"""The rows features are asked for, in the order in which windows slide along a history: by key, then by time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from feature_repo.windows.columns import Ints
from feature_repo.windows.history.dense_ids import UNKNOWN, KeyNumbers, Numbers
from feature_repo.windows.history.order import by_key_and_time


class Asked:
    """Rows asked for, by the hashes of their keys (int64 [n, 2]) and their times (int64 UTC us)."""

    def __init__(self, keys: Ints, times: Ints, has_key: npt.NDArray[np.bool_] | None = None) -> None:
        self._numbers = KeyNumbers()
        numbers = self._numbers.add(keys)
        if has_key is not None:
            numbers[~has_key] = UNKNOWN
        self.n = len(times)
        """How many there are, those without a key included."""
        self.rows, self.starts = by_key_and_time(numbers, len(self._numbers), times)
        """Those that have a key, in order, and where each key starts among them (int64 [keys + 1])."""
        self.times: Ints = times[self.rows]
        self.keys: Numbers = numbers[self.rows]

    @property
    def n_keys(self) -> int:
        return len(self._numbers)

    def number(self, keys: Ints) -> Numbers:
        """The numbers of events' keys, `UNKNOWN` for keys that nothing is asked of."""
        return self._numbers.find(keys)
