"""Cities, merchants and other payees, one entry per payee; they do not change with time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flows.generate.draws import Floats, Ints

_ATMS_A_CITY = 4
_CUSTOMERS_OF_CITY, _CUSTOMERS_OF_ALL = 2**10, 2**15


@dataclass(frozen=True, slots=True)
class Places:
    """Cities and payees.

    Payees are numbered: merchants, accounts of this bank, accounts of other banks, cash machines.
    """

    merchants: int
    accounts: int
    elsewhere: int
    city_latitude: Floats
    city_longitude: Floats
    city_weight: Floats
    merchant_city: Ints
    merchant_price: Floats
    shops_of_city: Ints
    shops_of_all: Ints
    names: Any

    @classmethod
    def draw(cls, rng: np.random.Generator, *, accounts: int, merchants: int) -> "Places":
        """Draw cities and merchants; the popularity of merchants follows Zipf's law."""
        cities = int(np.clip(merchants // 12, 1, 40))
        weight = 1.0 / np.arange(1, cities + 1) ** 0.8
        merchant_city = rng.choice(cities, merchants, p=weight / weight.sum())
        popularity = ((1.0 + rng.permutation(merchants)) ** -0.9).astype(np.float64)
        everywhere = _by_popularity(np.arange(merchants), popularity, _CUSTOMERS_OF_ALL)
        of_city = [
            # A city without shops sends people on.
            _by_popularity(np.flatnonzero(mine), popularity, _CUSTOMERS_OF_CITY)
            if (mine := merchant_city == city).any()
            else everywhere[:: _CUSTOMERS_OF_ALL // _CUSTOMERS_OF_CITY]
            for city in range(cities)
        ]
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
            shops_of_city=np.stack(of_city),
            shops_of_all=everywhere,
            names=pa.array(names),
        )

    @property
    def cities(self) -> int:
        """Number of cities."""
        return len(self.city_weight)

    @property
    def account_names(self) -> Any:
        """Ids of the accounts of this bank, as an Arrow array."""
        return self.names.slice(self.merchants, self.accounts)

    def shop(self, city: Ints, draw: Floats) -> Ints:
        """Return a merchant of each city by popularity, from uniform draws."""
        return self.shops_of_city[city, (draw * _CUSTOMERS_OF_CITY).astype(np.int64)]

    def shop_anywhere(self, draw: Floats) -> Ints:
        """Return a merchant of the whole country by popularity, for online payments."""
        return self.shops_of_all[(draw * _CUSTOMERS_OF_ALL).astype(np.int64)]

    def account(self, number: Ints) -> Ints:
        """Return the payee number of an account of this bank."""
        return self.merchants + number

    def account_elsewhere(self, number: Ints) -> Ints:
        """Return the payee number of an account at another bank."""
        return self.merchants + self.accounts + number

    def atm(self, city: Ints, draw: Floats) -> Ints:
        """Return the payee number of a cash machine in each city."""
        machine = city * _ATMS_A_CITY + (draw * _ATMS_A_CITY).astype(np.int64)
        return self.merchants + self.accounts + self.elsewhere + machine


def _by_popularity(merchants: Ints, popularity: Floats, customers: int) -> Ints:
    """Return a table of merchants by popularity; looking one up is much faster than a search."""
    cumulative = np.cumsum(popularity[merchants])
    spread = (np.arange(customers) + 0.5) / customers * cumulative[-1]
    chosen: Ints = merchants[np.searchsorted(cumulative, spread)]
    return chosen
