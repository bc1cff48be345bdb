"""Split payments by event time into train, valid and test, and choose the time of the labels of each part.

    warm-up | train | gap | valid | gap | test | too recent
            ^since+warmup        ^       ^        ^end

A gap is as long as the label delay. A model in use on the first day of a part could only be trained on what was known
that day, so the labels of train are those known when valid begins, the labels of valid those known when test begins,
and the labels of test those known at the cutoff. Later corrections are not visible to the earlier part.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_repo.errors import DataError
from training.labels import Window, to_us

NONE, TRAIN, VALID, TEST = -1, 0, 1, 2
PARTS: Final = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(frozen=True, slots=True)
class Part:
    """Half-open interval of event time, and the time as of which its labels are read."""

    since: datetime
    until: datetime
    known_at: datetime

    def to_json(self) -> dict[str, str]:
        """Return the entry of the manifest."""
        return {
            "from": self.since.isoformat(),
            "until": self.until.isoformat(),
            "labels_known_at": self.known_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Split:
    """The three parts."""

    train: Part
    valid: Part
    test: Part

    def items(self) -> tuple[tuple[str, Part], ...]:
        """Return names and parts, the earliest first."""
        return (("train", self.train), ("valid", self.valid), ("test", self.test))

    def assign(self, event_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        """Return the part (NONE, TRAIN, VALID or TEST) of each event time (int64[n], us)."""
        part = np.full(len(event_us), NONE, np.int8)
        for name, span in self.items():
            part[(event_us >= to_us(span.since)) & (event_us < to_us(span.until))] = PARTS[name]
        return part

    def known_at(self, part: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        """Return the time as of which the label of each row is read, int64[n] (us), for parts int8[n]."""
        instants = np.array([to_us(span.known_at) for _, span in self.items()], np.int64)
        return instants[part]


def time_split(
    window: Window,
    *,
    label_delay: timedelta,
    valid: timedelta,
    test: timedelta,
    warmup: timedelta = timedelta(),
) -> Split:
    """Split the window, from its end: test, gap, valid, gap; the rest after the warm-up is train.

    Raises `DataError` if nothing is left for training.
    """
    end = min(window.until, window.cutoff - label_delay + timedelta(microseconds=1))
    test_since = end - test
    valid_until = test_since - label_delay
    valid_since = valid_until - valid
    train_until = valid_since - label_delay
    train_since = window.since + warmup
    if train_since >= train_until:
        needed = warmup + 3 * label_delay + valid + test
        raise DataError(
            f"{window.cutoff - window.since} of history leave nothing to train on: warm-up, two gaps, a label delay, "
            f"validation and test take {needed}",
            where=f"{window.since.isoformat()} to {window.cutoff.isoformat()}",
            todo="take a longer history, or fewer --valid-days, --test-days or --label-delay-days",
        )
    return Split(
        train=Part(train_since, train_until, known_at=valid_since),
        valid=Part(valid_since, valid_until, known_at=test_since),
        test=Part(test_since, end, known_at=window.cutoff),
    )
