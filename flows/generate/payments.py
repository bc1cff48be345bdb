"""Honest payments, one planned payment per entry, in no order.

Many look like fraud if seen alone: people empty accounts, buy cars, try new shops, travel, change phones and pay at
night. Only the history of an account tells them apart.
"""

from dataclasses import dataclass

import numpy as np

from flows.generate.accounts import DAY_US, FRIENDS, USUAL_SHOPS, Accounts
from flows.generate.draws import Floats, Ints
from flows.generate.plan import NOTHING, Channel, Kind, Plan, concat

_FOLLOW_UPS = 0.14
_USUAL = 0.80
_SMALL = 0.06
_LARGE = 0.016
_EMPTIED = 0.008
_ROUNDS = 0.0025
_NEW_DEVICE = 0.008
_SLOT_WEIGHT = np.cumsum(1.0 / np.arange(1, USUAL_SHOPS + 1)) / np.sum(1.0 / np.arange(1, USUAL_SHOPS + 1))
_KIND_WEIGHT = np.cumsum([0.80, 0.075, 0.055, 0.02, 0.05])


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open interval of time (us). In real time (live traffic), people act at any hour."""

    start: int
    end: int
    real_time: bool = False


def plan_honest(rng: np.random.Generator, accounts: Accounts, span: Span, count: int) -> Plan:
    """Plan about `count` honest payments of a span."""
    rounds = rng.binomial(count, _ROUNDS)
    everyday = max(count - 4 * rounds, 0)
    follow_ups = rng.binomial(everyday, _FOLLOW_UPS)
    account, t = _who_when(rng, accounts, span, everyday - follow_ups)
    if len(account) and follow_ups:
        # Shopping comes in trips: a payment within minutes of another is nothing special.
        leader = rng.integers(0, len(account), follow_ups)
        gap = rng.exponential(6.0 * 60e6, follow_ups) * _pace(span)
        account = np.concatenate([account, account[leader]])
        t = np.concatenate([t, t[leader] + gap.astype(np.int64)])
    plans = [_everyday(rng, accounts, account, t)]
    if rounds:
        plans.append(_payment_round(rng, accounts, span, rounds))
    if not span.real_time:
        plans.append(_incomes(rng, accounts, span))
    return concat(plans)


def _who_when(rng: np.random.Generator, accounts: Accounts, span: Span, count: int) -> tuple[Ints, Ints]:
    """Draw accounts by activity, and times by the usual hours of each."""
    width = span.end - span.start
    if span.real_time:
        hour = (span.start + width // 2) % DAY_US / 3.6e9
        off = np.abs((hour - accounts.peak_hour + 12.0) % 24.0 - 12.0) / accounts.hour_spread
        awake = accounts.activity * (np.exp(-0.5 * off**2) / accounts.hour_spread + 0.01)
        account = _one_by_one(rng, awake, count)
        return account, span.start + (rng.random(count) * width).astype(np.int64)
    account = _one_by_one(rng, accounts.activity, count)
    return account, at_usual_hours(rng, accounts, span, account)


def _one_by_one(rng: np.random.Generator, weight: Floats, count: int) -> Ints:
    """Draw accounts by weight, in order of account; they are sorted by time later."""
    return np.repeat(np.arange(len(weight)), rng.multinomial(count, weight / weight.sum()))


def at_usual_hours(rng: np.random.Generator, accounts: Accounts, span: Span, account: Ints) -> Ints:
    """Draw times within the span by the usual hours of each account; one in twelve at any hour."""
    n, width = len(account), span.end - span.start
    hour = (accounts.peak_hour[account] + accounts.hour_spread[account] * rng.standard_normal(n)) % 24.0
    hour = np.where(rng.random(n) < 1 / 12, rng.random(n) * 24.0, hour)
    day = (rng.random(n) * np.ceil(width / DAY_US)).astype(np.int64)
    t = (span.start // DAY_US + day) * DAY_US + (hour * 3.6e9).astype(np.int64)
    inside = (t >= span.start) & (t < span.end)
    return np.where(inside, t, span.start + (rng.random(n) * width).astype(np.int64))


def _everyday(rng: np.random.Generator, accounts: Accounts, account: Ints, t: Ints) -> Plan:
    """Plan payments to shops and people, cash and bills; a few are large, and a few empty the account."""
    n, places = len(account), accounts.places
    kind = np.searchsorted(_KIND_WEIGHT, rng.random(n) * _KIND_WEIGHT[-1], side="right").astype(np.int64)
    city, away = accounts.city(account, t)

    slot = np.searchsorted(_SLOT_WEIGHT, rng.random(n), side="right").astype(np.int64)
    usual = (rng.random(n) < _USUAL) & ~away
    discovered = np.where(
        rng.random(n) < 0.75, places.shop(city, rng.random(n)), places.shop_anywhere(rng.random(n))
    )
    shop = np.where(usual, accounts.usual_shop(account, slot, t), discovered)
    log_amount = accounts.log_scale[account] + accounts.log_spread[account] * rng.standard_normal(n)
    amount = np.exp(log_amount + np.where(kind == Kind.PAYMENT, places.merchant_price[shop], 0.0))
    small = (rng.random(n) < _SMALL) & (kind == Kind.PAYMENT)
    amount = np.where(small, rng.uniform(0.5, 6.0, n), amount)
    amount = np.where(kind == Kind.TRANSFER, 2.2 * amount, amount)
    amount = np.where(kind == Kind.CASH_OUT, 20.0 * np.ceil(amount / 20.0), amount)
    amount = np.where(kind == Kind.CASH_IN, 50.0 * np.ceil(3.0 * amount / 50.0), amount)

    share = np.zeros(n)
    fate = rng.random(n)
    large = (fate < _LARGE) & (kind != Kind.CASH_IN)
    emptied = (fate > 1.0 - _EMPTIED) & (kind != Kind.CASH_IN)
    share[large] = rng.uniform(0.25, 0.95, int(large.sum()))
    share[emptied] = whole_or_nearly(rng, int(emptied.sum()))
    kind = np.where(emptied & (rng.random(n) < 0.55), Kind.TRANSFER, kind)

    slot = np.minimum((rng.exponential(1.5, n)).astype(np.int64), FRIENDS - 1)
    stranger = places.account_elsewhere(rng.integers(0, places.elsewhere, n))
    person = np.where(rng.random(n) < 0.85, accounts.friend(account, slot), stranger)
    person = np.where(emptied & (rng.random(n) < 0.6), accounts.savings(account), person)
    payee = np.select(
        [kind == Kind.PAYMENT, kind == Kind.TRANSFER, kind == Kind.CASH_OUT, kind == Kind.DEBIT],
        [shop, person, places.atm(city, rng.random(n)), accounts.usual_shop(account, slot, t)],
        accounts.employer(account),
    )
    plan = Plan(
        t=t,
        account=account,
        kind=kind,
        payee=payee,
        cents=np.maximum((100.0 * amount).astype(np.int64), 50),
        share=share,
        channel=channels(rng, accounts, account, kind),
        latitude=np.zeros(n),
        longitude=np.zeros(n),
        device=np.zeros(n, np.int64),
        fraud=np.zeros(n, np.int64),
    )
    return at_hand(rng, accounts, plan, city, new_device=_NEW_DEVICE)


def _payment_round(rng: np.random.Generator, accounts: Accounts, span: Span, rounds: int) -> Plan:
    """Plan several transfers within minutes, such as rent, wages and shared bills."""
    starter, start = _who_when(rng, accounts, span, rounds)
    size = rng.integers(3, 6, rounds)
    member = np.repeat(np.arange(rounds), size)
    step = np.arange(len(member)) - np.repeat(np.cumsum(size) - size, size)
    account, n, places = starter[member], len(member), accounts.places
    t = start[member] + (step * rng.exponential(80e6, n) * _pace(span)).astype(np.int64)
    known = rng.random(n) < 0.7
    stranger = places.account_elsewhere(rng.integers(0, places.elsewhere, n))
    generous = rng.random(rounds)[member] < 0.35
    amount = np.exp(accounts.log_scale[account] + 0.7 + 0.6 * rng.standard_normal(n))
    plan = Plan(
        t=t,
        account=account,
        kind=np.full(n, Kind.TRANSFER, np.int64),
        payee=np.where(known, accounts.friend(account, step), stranger),
        cents=(100.0 * amount).astype(np.int64),
        share=np.where(generous, rng.uniform(0.15, 0.5, n), 0.0),
        channel=np.full(n, Channel.APP, np.int64),
        latitude=np.zeros(n),
        longitude=np.zeros(n),
        device=np.zeros(n, np.int64),
        fraud=np.zeros(n, np.int64),
    )
    return at_hand(rng, accounts, plan, accounts.city(account, t)[0], new_device=_NEW_DEVICE)


def _incomes(rng: np.random.Generator, accounts: Accounts, span: Span) -> Plan:
    """Plan incomes: once every 28 days at night, half of them on the same four days."""
    day = np.arange(span.start // DAY_US, -(-span.end // DAY_US))
    every = np.arange(accounts.places.accounts)
    payday = np.where(every % 2 == 0, every % 4, every // 2 % 28)
    on, account = np.nonzero((day[:, None] % 28) == payday[None, :])
    n = len(account)
    t = day[on] * DAY_US + (rng.uniform(2.0, 6.0, n) * 3.6e9).astype(np.int64)
    inside = (t >= span.start) & (t < span.end)
    cents = accounts.income_cents[account] * rng.normal(1.0, 0.03, n).clip(0.8, 1.2)
    plan = Plan(
        t=t,
        account=account.astype(np.int64),
        kind=np.full(n, Kind.CASH_IN, np.int64),
        payee=accounts.employer(account.astype(np.int64)),
        cents=cents.astype(np.int64),
        share=np.zeros(n),
        channel=np.full(n, NOTHING, np.int64),
        latitude=np.full(n, np.nan),
        longitude=np.full(n, np.nan),
        device=np.full(n, NOTHING, np.int64),
        fraud=np.zeros(n, np.int64),
    )
    return plan.take(inside)


def whole_or_nearly(rng: np.random.Generator, n: int) -> Floats:
    """Draw the share of the balance that empties an account, honest or not: all, or less because of limits and fees."""
    return np.where(rng.random(n) < 0.55, 1.0, rng.uniform(0.8, 1.0, n))


def channels(rng: np.random.Generator, accounts: Accounts, account: Ints, kind: Ints) -> Ints:
    """Draw the channel of each payment, by its type and the account's preference for its phone."""
    n = len(account)
    phone = rng.random(n) < accounts.pays_by_phone[account]
    shop = np.where(phone, Channel.APP, np.where(rng.random(n) < 0.28, Channel.WEB, Channel.POS))
    person = np.where(rng.random(n) < 0.75, Channel.APP, Channel.WEB)
    return np.select(
        [kind == Kind.PAYMENT, kind == Kind.TRANSFER, kind == Kind.CASH_OUT, kind == Kind.CASH_IN],
        [shop, person, Channel.ATM, Channel.BRANCH],
        NOTHING,
    ).astype(np.int64)


def at_hand(
    rng: np.random.Generator, accounts: Accounts, plan: Plan, city: Ints, *, new_device: float
) -> Plan:
    """Set location and device (card or phone, some of them new) of each payment."""
    n, places = len(plan), accounts.places
    at_home = city == accounts.homes.city_at(plan.account, plan.t)
    home_latitude, home_longitude = accounts.homes.place_at(plan.account, plan.t)
    latitude = np.where(at_home, home_latitude, places.city_latitude[city])
    longitude = np.where(at_home, home_longitude, places.city_longitude[city])
    nowhere = plan.channel == NOTHING
    plan.latitude = np.where(nowhere, np.nan, latitude + 0.03 * rng.standard_normal(n)).round(5)
    plan.longitude = np.where(nowhere, np.nan, longitude + 0.04 * rng.standard_normal(n)).round(5)
    card = (plan.channel == Channel.POS) | (plan.channel == Channel.ATM)
    device = accounts.device(plan.account, plan.t, card=card)
    device = np.where(rng.random(n) < new_device, accounts.any_device(rng, n), device)
    plan.device = np.where(nowhere | (plan.channel == Channel.BRANCH), NOTHING, device)
    return plan


def _pace(span: Span) -> float:
    """Return the factor of time intervals: live traffic is 100 times faster, so that a short run has whole series."""
    return 1 / 100 if span.real_time else 1.0
