"""Fraudulent payments, one planned payment per entry. Amounts are shares of the balance at that time.

1. probe: one or two small payments as a test, then the rest of the balance;
2. spread: the whole balance to several accounts within minutes;
3. drain: the whole balance in one payment to a merchant.

Many, not all, happen far from home, from a new device, at odd hours, and to payees that serve several thieves. A
third of the victims have paid at a merchant that leaks cards (`flows.generate.leaks`), where their cards are tested
too. Some are robbed again days later.
"""

from dataclasses import dataclass

import numpy as np

from flows.generate.accounts import DAY_US, Accounts
from flows.generate.draws import Bools, Floats, Ints, Subject, below
from flows.generate.leaks import Leaks, leaking
from flows.generate.merchants import Merchants
from flows.generate.payments import Span, at_hand, at_usual_hours, channels, whole_or_nearly
from flows.generate.plan import Channel, Kind, Plan, concat, empty

PROBE, SPREAD, DRAIN = 1, 2, 3
_MIX = (0.30, 0.22, 0.48)
_ROWS_AN_EPISODE = 2.1
_AGAIN, _AGAIN_AFTER_DAYS = 0.30, 2.0
_LIVE_DAYS_FASTER = 8_640.0  # a day becomes ten seconds
_LEAKED = 0.35
_MULES_A_WEEK = 30
_FENCES, _FENCE_DAYS = 5, 10
_LEAST_BALANCE_CENTS = 5_000
_YOUNG_ACCOUNTS = 1.7


@dataclass(frozen=True, slots=True)
class _Thefts:
    """Thefts: the accounts robbed, the start, and how the thief got access."""

    account: Ints
    start: Ints
    city: Ints
    own_device: Bools
    leaked: Bools
    pace: float

    def at(self, episode: Ints) -> "_Thefts":
        return _Thefts(
            self.account[episode],
            self.start[episode],
            self.city[episode],
            self.own_device[episode],
            self.leaked[episode],
            self.pace,
        )


def plan_frauds(
    rng: np.random.Generator,
    accounts: Accounts,
    merchants: Merchants,
    leaks: Leaks,
    span: Span,
    worth: Floats,
    payments: float,
) -> Plan:
    """Plan about `payments` fraudulent payments; thefts begin in the span and may end, or be repeated, after it.

    `worth` is the weight of each account as a victim, float64[accounts], 0 for none.
    """
    total = np.cumsum(worth)
    episodes = int(rng.poisson(payments / _ROWS_AN_EPISODE / (1.0 + _AGAIN)))
    if not episodes or not total[-1]:
        return empty()
    account = np.searchsorted(total, rng.random(episodes) * total[-1], side="right").astype(np.int64)
    leaked = np.zeros(episodes, np.bool_)
    if len(leaks.account):
        copied = leaks.account[rng.integers(0, len(leaks.account), episodes)]
        leaked = (rng.random(episodes) < _LEAKED) & (worth[copied] > 0.0)
        account = np.where(leaked, copied, account)
    start = _when(rng, accounts, span, account)
    pace = 1 / 40 if span.real_time else 1.0
    again = np.flatnonzero(rng.random(episodes) < _AGAIN)
    days = (0.2 + rng.exponential(_AGAIN_AFTER_DAYS, len(again))) / (
        _LIVE_DAYS_FASTER if span.real_time else 1.0
    )
    later = start[again] + (days * DAY_US).astype(np.int64)
    account, leaked = np.append(account, account[again]), np.append(leaked, leaked[again])
    start = np.append(start, later)
    episodes = len(account)
    thefts = _Thefts(
        account=account,
        start=start,
        city=np.where(
            rng.random(episodes) < 0.45,
            rng.integers(0, accounts.places.cities, episodes),
            accounts.homes.city_at(account, start),
        ),
        own_device=rng.random(episodes) < 0.5,
        leaked=leaked,
        pace=pace,
    )
    way = 1 + np.searchsorted(np.cumsum(_MIX[:2]), rng.random(episodes), side="right")
    return concat(
        [
            _probe(rng, accounts, merchants, thefts.at(np.flatnonzero(way == PROBE))),
            _spread(rng, accounts, thefts.at(np.flatnonzero(way == SPREAD))),
            _drain(rng, accounts, merchants, thefts.at(np.flatnonzero(way == DRAIN))),
        ]
    )


def worth(balance: Ints, *, young: Bools, open_: Bools) -> Floats:
    """Return the weight of each account as a victim.

    Grows with its balance, higher if it is new, 0 if it is not open.
    """
    money = np.sqrt(np.maximum(balance - _LEAST_BALANCE_CENTS, 0).astype(np.float64))
    return np.where(open_, np.where(young, _YOUNG_ACCOUNTS, 1.0) * money, 0.0)


def _when(rng: np.random.Generator, accounts: Accounts, span: Span, account: Ints) -> Ints:
    """Return when each theft begins: half at night, half at the victim's usual hours; in live traffic at any time."""
    n = len(account)
    if span.real_time:
        return span.start + (rng.random(n) * (span.end - span.start)).astype(np.int64)
    days = -(-(span.end - span.start) // DAY_US)
    night = (span.start // DAY_US + rng.integers(0, days, n)) * DAY_US
    night += (rng.uniform(0.0, 5.5, n) * 3.6e9).astype(np.int64)
    usual = at_usual_hours(rng, accounts, span, account)
    return np.where((rng.random(n) < 0.4) & (night >= span.start) & (night < span.end), night, usual)


def _probe(rng: np.random.Generator, accounts: Accounts, merchants: Merchants, thefts: _Thefts) -> Plan:
    """Plan small payments to any shop, then the rest within an hour: to a shop, a mule or in cash."""
    episodes, places = len(thefts.account), accounts.places
    size = rng.integers(1, 3, episodes)
    probe = np.repeat(np.arange(episodes), size)
    step = np.arange(len(probe)) - np.repeat(np.cumsum(size) - size, size)
    small = _fraud(
        rng,
        accounts,
        thefts.at(probe),
        after=step * rng.exponential(120e6, len(probe)),
        kind=np.full(len(probe), Kind.PAYMENT, np.int64),
        payee=_tried_at(rng, accounts, thefts.at(probe)),
        share=np.zeros(len(probe)),
        way=PROBE,
    )
    small.cents = (100.0 * rng.lognormal(0.8, 0.7, len(probe))).astype(np.int64) + 1
    kind = rng.choice(np.array([Kind.PAYMENT, Kind.TRANSFER, Kind.CASH_OUT]), episodes, p=[0.5, 0.3, 0.2])
    payee = np.select(
        [kind == Kind.PAYMENT, kind == Kind.TRANSFER],
        [_fence(rng, accounts, merchants, thefts.start), _mule(rng, accounts, thefts.start)],
        places.atm(thefts.city, rng.random(episodes)),
    )
    rest = _fraud(
        rng,
        accounts,
        thefts,
        after=240e6 + np.minimum(rng.lognormal(np.log(900e6), 0.8, episodes), 4 * 3.6e9),
        kind=kind.astype(np.int64),
        payee=payee,
        share=whole_or_nearly(rng, episodes),
        way=PROBE,
    )
    return concat([small, rest])


def _spread(rng: np.random.Generator, accounts: Accounts, thefts: _Thefts) -> Plan:
    """Plan three to six transfers, about a minute apart, that empty the account."""
    episodes = len(thefts.account)
    size = rng.integers(3, 7, episodes)
    theft = np.repeat(np.arange(episodes), size)
    left = np.repeat(np.cumsum(size), size) - np.arange(len(theft))
    gap = rng.exponential(55e6, len(theft)) + 5e6
    elapsed = np.cumsum(gap) - np.repeat((np.cumsum(gap) - gap)[np.cumsum(size) - size], size)
    jitter = rng.uniform(0.75, 1.25, len(theft))
    return _fraud(
        rng,
        accounts,
        thefts.at(theft),
        after=elapsed,
        kind=np.full(len(theft), Kind.TRANSFER, np.int64),
        payee=_mule(rng, accounts, thefts.start[theft]),
        share=np.where(left == 1, 1.0, jitter / left),
        way=SPREAD,
    )


def _drain(rng: np.random.Generator, accounts: Accounts, merchants: Merchants, thefts: _Thefts) -> Plan:
    """Plan one payment of the whole balance to a merchant, who may be an accomplice."""
    n = len(thefts.account)
    return _fraud(
        rng,
        accounts,
        thefts,
        after=np.zeros(n),
        kind=np.full(n, Kind.PAYMENT, np.int64),
        payee=_fence(rng, accounts, merchants, thefts.start),
        share=whole_or_nearly(rng, n),
        way=DRAIN,
    )


def _mule(rng: np.random.Generator, accounts: Accounts, t: Ints) -> Ints:
    """Return accounts that pass on stolen money: a few busy ones per week, and many that are used once."""
    n, places = len(t), accounts.places
    who = rng.integers(0, _MULES_A_WEEK, n)
    universe = places.accounts + places.elsewhere
    ours = below(5, accounts.seed, Subject.MULE, who) == 0
    number = below(universe, accounts.seed, Subject.MULE, t // (7 * DAY_US), who)
    busy = np.where(
        ours, places.account(number % places.accounts), places.account_elsewhere(number % places.elsewhere)
    )
    once = places.account_elsewhere(rng.integers(0, places.elsewhere, n))
    return np.where(rng.random(n) < 0.5, busy, once)


def _fence(rng: np.random.Generator, accounts: Accounts, merchants: Merchants, t: Ints) -> Ints:
    """Return merchants where stolen money is spent: a few accomplices for some days, mostly risky or new ones."""
    n = len(t)
    who = rng.integers(0, _FENCES, n)
    turn = (t // (DAY_US // 10) + who * (10 * _FENCE_DAYS // _FENCES)) // (10 * _FENCE_DAYS)
    bad = merchants.fences[below(len(merchants.fences), accounts.seed, Subject.BAD_MERCHANT, turn, who)]
    return np.where(rng.random(n) < 0.4, bad, accounts.places.shop_anywhere(rng.random(n)))


def _tried_at(rng: np.random.Generator, accounts: Accounts, thefts: _Thefts) -> Ints:
    """Return where a stolen card is tested: half of the copied ones at a merchant that leaks cards."""
    n, places = len(thefts.account), accounts.places
    who, now = leaking(accounts.seed, places.merchants, thefts.start)
    which = rng.integers(0, who.shape[1], n)
    row = np.arange(n)
    there = now[row, which] & (rng.random(n) < np.where(thefts.leaked, 0.6, 0.2))
    return np.where(there, who[row, which], places.shop_anywhere(rng.random(n)))


def _fraud(
    rng: np.random.Generator,
    accounts: Accounts,
    thefts: _Thefts,
    *,
    after: Floats,
    kind: Ints,
    payee: Ints,
    share: Floats,
    way: int,
) -> Plan:
    """Return planned payments of thefts, `after` microseconds from their start."""
    n = len(thefts.account)
    online = rng.random(n) < 0.5
    channel = channels(rng, accounts, thefts.account, kind)
    channel = np.where(online & (kind == Kind.PAYMENT), Channel.WEB, channel).astype(np.int64)
    plan = Plan(
        t=thefts.start + (after * thefts.pace).astype(np.int64),
        account=thefts.account,
        kind=kind,
        payee=payee,
        cents=np.zeros(n, np.int64),
        share=share,
        channel=channel,
        latitude=np.zeros(n),
        longitude=np.zeros(n),
        device=np.zeros(n, np.int64),
        fraud=np.full(n, way, np.int64),
    )
    plan = at_hand(rng, accounts, plan, thefts.city, new_device=0.0)
    stolen_code = below(10**10, accounts.seed, Subject.STOLEN, thefts.account, thefts.start)
    plan.device = np.where(thefts.own_device, plan.device, stolen_code)
    return plan
