"""The habits of accounts: activity, location, favourite merchants and devices at any time. One entry per account."""

from dataclasses import dataclass

import numpy as np

from flows.generate.draws import Bools, Floats, Ints, Subject, below, mix, uniform
from flows.generate.homes import Homes
from flows.generate.places import Places

DAY_US = 86_400_000_000
USUAL_SHOPS = 9
FRIENDS = 6
_DEVICE_CODES = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Accounts:
    """Habits of accounts. Trips, devices and shops are hashes of account and time; homes change by moves."""

    seed: int
    places: Places
    activity: Floats
    log_scale: Floats
    log_spread: Floats
    peak_hour: Floats
    hour_spread: Floats
    homes: Homes
    trip_days: Floats
    trip_period_days: Floats
    income_cents: Ints
    pays_by_phone: Floats

    @classmethod
    def draw(
        cls, rng: np.random.Generator, places: Places, *, seed: int, payments_a_day: float
    ) -> "Accounts":
        """Draw accounts. Their activity adds up to 1, and their incomes cover their expected spending."""
        n = places.accounts
        activity = rng.gamma(1.4, 1.0, n) + 0.05
        activity /= activity.sum()
        log_scale = rng.normal(np.log(24.0), 0.7, n)
        log_spread = rng.uniform(0.5, 0.95, n)
        mean_amount = np.exp(log_scale + log_spread**2 / 2 + 0.1)
        monthly = mean_amount * activity * payments_a_day * 30.0
        night_owl = rng.random(n) < 0.09
        return cls(
            seed=seed,
            places=places,
            activity=activity,
            log_scale=log_scale,
            log_spread=log_spread,
            peak_hour=np.where(night_owl, rng.normal(1.5, 2.0, n), rng.normal(14.0, 2.4, n)),
            hour_spread=rng.uniform(2.0, 4.6, n),
            homes=Homes.draw(rng, places),
            trip_days=np.where(rng.random(n) < 0.35, 0.0, rng.uniform(2.0, 8.0, n)),
            trip_period_days=rng.uniform(25.0, 110.0, n),
            income_cents=(100 * np.maximum(monthly * rng.lognormal(0.35, 0.35, n), 250.0)).astype(np.int64),
            pays_by_phone=rng.beta(1.5, 4.0, n),
        )

    def opening_cents(self, rng: np.random.Generator) -> Ints:
        """Return the opening balances in cents, int64[accounts]: some accounts have savings, others nearly nothing."""
        return (self.income_cents * rng.lognormal(0.0, 0.8, len(self.income_cents))).astype(np.int64)

    def city(self, account: Ints, t: Ints) -> tuple[Ints, Bools]:
        """Return the city of each account at t, and whether it is on a trip."""
        period = self.trip_period_days[account]
        position = t / DAY_US / period + uniform(self.seed, Subject.TRIP, account)
        number = np.floor(position)
        away = (position - number) * period < self.trip_days[account]
        there = below(self.places.cities, self.seed, Subject.TRIP_CITY, account, number)
        return np.where(away, there, self.homes.city_at(account, t)), away

    def usual_shop(self, account: Ints, slot: Ints, t: Ints) -> Ints:
        """Return the favourite merchant number `slot` of each account at t.

        Favourites change after one to six months.
        """
        period = 30.0 + 150.0 * uniform(self.seed, Subject.SLOT, account, slot)
        epoch = np.floor(t / DAY_US / period + uniform(self.seed, Subject.SLOT_EPOCH, account, slot))
        pick = uniform(self.seed, Subject.HOME_MERCHANT, account, slot, epoch)
        online = uniform(self.seed, Subject.HOME_MERCHANT, account, slot, epoch, 1) < 0.2
        near = self.places.shop(self.homes.city_at(account, t), pick)
        return np.where(online, self.places.shop_anywhere(pick), near)

    def device(self, account: Ints, t: Ints, *, card: Bools) -> Ints:
        """Return the code of the card or phone in use at t; phones last 1 to 4 months, cards 8 times that."""
        subject = Subject.DEVICE
        period = 30.0 + 90.0 * uniform(self.seed, subject, account, card.astype(np.int64))
        period = np.where(card, 8.0 * period, period)
        generation = np.floor(t / DAY_US / period + uniform(self.seed, subject, account, card, 1))
        code = mix(self.seed, subject, account, card, generation, 2) % np.uint64(_DEVICE_CODES)
        return code.astype(np.int64)

    def friend(self, account: Ints, slot: Ints) -> Ints:
        """Return the payee number of a person that the account sends money to.

        Half of them are accounts of this bank.
        """
        number = below(2 * self.places.accounts, self.seed, Subject.FRIEND, account, slot)
        ours = number < self.places.accounts
        elsewhere = self.places.account_elsewhere(number % self.places.elsewhere)
        friend = np.where(ours, self.places.account(number), elsewhere)
        # An account does not pay itself; the next account is paid instead.
        return np.where(friend == self.places.account(account), elsewhere, friend)

    def savings(self, account: Ints) -> Ints:
        """Return the payee number of the account's own savings account at another bank."""
        return self.places.account_elsewhere(
            below(self.places.elsewhere, self.seed, Subject.SAVINGS, account)
        )

    def employer(self, account: Ints) -> Ints:
        """Return the payee number of the employer that pays the account's income."""
        return below(self.places.merchants, self.seed, Subject.EMPLOYER, account)

    def any_device(self, rng: np.random.Generator, n: int) -> Ints:
        """Return codes of devices that nobody has used before, from the same range as all others."""
        return rng.integers(0, _DEVICE_CODES, n)
