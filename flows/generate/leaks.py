"""Merchants that leak cards: for some days the cards used there are copied, and used by thieves in the days after."""

from dataclasses import dataclass

import numpy as np

from flows.generate.accounts import DAY_US
from flows.generate.draws import Bools, Ints, Subject, below
from flows.generate.plan import Kind, Plan

LEAKING = 6
_EPOCH_DAYS, _LEAKS_FOR = 6.0, 0.7
_COPIED = 0.6
_USED_WITHIN_US = 10 * DAY_US
_AT_MOST = 20_000


def leaking(seed: int, merchants: int, t: Ints) -> tuple[Ints, Bools]:
    """Return the merchants that leak cards in turn, and whether each does so at t: two int64[n, LEAKING]."""
    slot = np.arange(LEAKING)
    turn = np.asarray(t)[:, None] / (_EPOCH_DAYS * DAY_US) + slot / LEAKING
    epoch = np.floor(turn)
    return below(merchants, seed, Subject.LEAKING_MERCHANT, slot, epoch), turn - epoch < _LEAKS_FOR


@dataclass(slots=True)
class Leaks:
    """Copied cards: account and time; a card can be used for ten days."""

    account: Ints
    t: Ints

    STATE = ("account", "t")

    @classmethod
    def none(cls) -> "Leaks":
        """Return the initial state: no copied cards."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def take_in(self, rng: np.random.Generator, seed: int, merchants: int, plan: Plan, start: int) -> None:
        """Add most cards of a settled plan that were used at leaking merchants, and remove old ones."""
        who, now = leaking(seed, merchants, np.array([start]))
        leaks = np.zeros(int(plan.payee.max(initial=0)) + merchants + 1, np.bool_)
        leaks[who[now]] = True
        rows = np.flatnonzero(leaks[plan.payee] & (plan.kind == Kind.PAYMENT) & (plan.fraud == 0))
        rows = rows[rng.random(len(rows)) < _COPIED]
        fresh = self.t > start - _USED_WITHIN_US
        self.account = np.concatenate([self.account[fresh], plan.account[rows]])[-_AT_MOST:]
        self.t = np.concatenate([self.t[fresh], plan.t[rows]])[-_AT_MOST:]
