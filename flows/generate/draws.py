"""Stateless random numbers: hashes of (seed, subject, account, period), the same in every process.

With a stateful generator, the whole stream of random numbers would have to be replayed to continue a world.
"""

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Subject(IntEnum):
    """The purpose of a hash, so that two habits of one account are independent."""

    SLOT = 1
    SLOT_EPOCH = 2
    TRIP = 3
    TRIP_CITY = 4
    DEVICE = 5
    STOLEN = 6
    FRIEND = 7
    SAVINGS = 8
    MULE = 9
    BAD_MERCHANT = 10
    EMPLOYER = 11
    HOME_MERCHANT = 12
    PERSON = 13
    CONTACT = 14
    CARD = 15
    LEAKING_MERCHANT = 16


def mix(seed: int, subject: Subject, *parts: Any) -> npt.NDArray[np.uint64]:
    """Hash integers to 64 uniform bits, element by element (SplitMix64: Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        state = np.asarray(_scramble(np.uint64(seed & (2**64 - 1)) + _GOLDEN * np.uint64(subject)))
        for part in parts:
            state = _scramble(state + _GOLDEN + np.asarray(part).astype(np.int64).view(np.uint64))
    return np.asarray(state, dtype=np.uint64)


def uniform(seed: int, subject: Subject, *parts: Any) -> Floats:
    """Hash integers to floats in [0, 1)."""
    return (mix(seed, subject, *parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(limit: int, seed: int, subject: Subject, *parts: Any) -> Ints:
    """Hash integers to integers in [0, limit)."""
    return (mix(seed, subject, *parts) % np.uint64(limit)).astype(np.int64)


def _scramble(state: Any) -> Any:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))
