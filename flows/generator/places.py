"""Cities, merchants and everybody who can be paid. One entry per payee; nothing here changes with time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flows.generator.draws import Floats, Ints

_ATMS_A_CITY = 4


@dataclass(frozen=True, slots=True)
class Places:
    """Where money is spent.

    Payees are numbered: merchants, then accounts of ours, then accounts elsewhere, then cash machines.
    """

    merchants: int
    accounts: int
    elsewhere: int
    city_latitude: Floats
    city_longitude: Floats
    city_weight: Floats
    merchant_city: Ints
    merchant_price: Floats
    popularity: Floats
    by_city: Ints
    city_start: Ints
    cumulative: Floats
    names: Any

    @classmethod
    def draw(cls, rng: np.random.Generator, *, accounts: int, merchants: int) -> "Places":
        """Draw cities and merchants; shops are Zipf-popular, as people's custom is."""
        cities = int(np.clip(merchants // 12, 1, 40))
        weight = 1.0 / np.arange(1, cities + 1) ** 0.8
        merchant_city = rng.choice(cities, merchants, p=weight / weight.sum())
        popularity = 1.0 / (1.0 + rng.permutation(merchants)) ** 0.9
        by_city = np.argsort(merchant_city, kind="stable")
        elsewhere = max(2 * accounts, 1_000)
        width = len(str(accounts + elsewhere))
        names = [f"m-{i:04d}" for i in range(merchants)]
        names += [f"a-{i:0{width}d}" for i in range(accounts + elsewhere)]
        names += [f"atm-{i:03d}" for i in range(cities * _ATMS_A_CITY)]
        return cls(
            merchants=merchants,
            accounts=accounts,
            elsewhere=elsewhere,
            city_latitude=rng.uniform(37.0, 60.0, cities),
            city_longitude=rng.uniform(-8.0, 25.0, cities),
            city_weight=weight / weight.sum(),
            merchant_city=merchant_city.astype(np.int64),
            merchant_price=rng.normal(0.0, 0.45, merchants),
            popularity=popularity,
            by_city=by_city.astype(np.int64),
            city_start=np.searchsorted(merchant_city[by_city], np.arange(cities + 1)).astype(np.int64),
            cumulative=np.concatenate([[0.0], np.cumsum(popularity[by_city])]),
            names=pa.array(names),
        )

    @property
    def cities(self) -> int:
        """How many cities there are."""
        return len(self.city_weight)

    @property
    def account_names(self) -> Any:
        """Ids of our own accounts, as an Arrow array."""
        return self.names.slice(self.merchants, self.accounts)

    def shop(self, city: Ints, draw: Floats) -> Ints:
        """Pick a merchant of each city by popularity, from uniform draws; a city without shops sends people on."""
        low, high = self.cumulative[self.city_start[city]], self.cumulative[self.city_start[city + 1]]
        nothing = high <= low
        low, high = np.where(nothing, 0.0, low), np.where(nothing, self.cumulative[-1], high)
        at = np.searchsorted(self.cumulative, low + draw * (high - low), side="right") - 1
        return self.by_city[np.clip(at, 0, self.merchants - 1)]

    def shop_anywhere(self, draw: Floats) -> Ints:
        """Pick a merchant of the whole country by popularity, as one does on the web."""
        at = np.searchsorted(self.cumulative, draw * self.cumulative[-1], side="right") - 1
        return self.by_city[np.clip(at, 0, self.merchants - 1)]

    def account(self, number: Ints) -> Ints:
        """Payee number of an account of ours."""
        return self.merchants + number

    def account_elsewhere(self, number: Ints) -> Ints:
        """Payee number of an account at another bank."""
        return self.merchants + self.accounts + number

    def atm(self, city: Ints, draw: Floats) -> Ints:
        """Payee number of a cash machine in each city."""
        machine = city * _ATMS_A_CITY + (draw * _ATMS_A_CITY).astype(np.int64)
        return self.merchants + self.accounts + self.elsewhere + machine
