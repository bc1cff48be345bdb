"""Planned payments that are not settled yet: a struct of arrays, one entry per payment."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from flows.generate.draws import Bools, Floats, Ints

NOTHING = -1


class Kind(IntEnum):
    """Place of a payment's type in `feature_repo.streams.payments.TYPES`."""

    PAYMENT = 0
    TRANSFER = 1
    CASH_OUT = 2
    CASH_IN = 3
    DEBIT = 4


class Channel(IntEnum):
    """Index of a channel in CHANNELS; -1 is no channel."""

    APP = 0
    WEB = 1
    POS = 2
    ATM = 3
    BRANCH = 4


CHANNELS = tuple(channel.name.lower() for channel in Channel)


@dataclass(slots=True)
class Plan:
    """Planned payments. If `share` > 0, the amount is that share of the balance, else it is `cents`."""

    t: Ints
    account: Ints
    kind: Ints
    payee: Ints
    cents: Ints
    share: Floats
    channel: Ints
    latitude: Floats
    longitude: Floats
    device: Ints
    fraud: Ints

    def __len__(self) -> int:
        """Number of payments."""
        return len(self.t)

    def take(self, which: Ints | Bools) -> "Plan":
        """Return the payments of an index or mask."""
        return Plan(*(getattr(self, field.name)[which] for field in fields(self)))


def concat(plans: Sequence[Plan]) -> Plan:
    """Concatenate plans."""
    return Plan(*(np.concatenate([getattr(plan, field.name) for plan in plans]) for field in fields(Plan)))


def empty() -> Plan:
    """Return a plan without payments."""
    kinds: dict[str, npt.DTypeLike] = {"share": np.float64, "latitude": np.float64, "longitude": np.float64}
    return Plan(*(np.zeros(0, kinds.get(field.name, np.int64)) for field in fields(Plan)))
