"""The homes of account holders, now and before the last move. One entry per account; moves change it in place."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.generate.draws import Floats, Ints
from flows.generate.places import Places

_BEGINNING = np.iinfo(np.int64).min


@dataclass(slots=True)
class Homes:
    """Current and former homes; the current one is valid from `since` on (us)."""

    city: Ints
    latitude: Floats
    longitude: Floats
    former_city: Ints
    former_latitude: Floats
    former_longitude: Floats
    since: Ints

    @classmethod
    def draw(cls, rng: np.random.Generator, places: Places) -> "Homes":
        """Draw a home for every account; large cities are more popular."""
        city = rng.choice(places.cities, places.accounts, p=places.city_weight).astype(np.int64)
        latitude, longitude = _near(rng, places, city)
        since = np.full(places.accounts, _BEGINNING)
        return cls(city, latitude, longitude, city.copy(), latitude.copy(), longitude.copy(), since)

    def city_at(self, account: Ints, t: Ints) -> Ints:
        """Return the city of the home of each account at t."""
        city: Ints = self._at(self.city, self.former_city, account, t)
        return city

    def place_at(self, account: Ints, t: Ints) -> tuple[Floats, Floats]:
        """Return latitude and longitude of the home of each account at t."""
        return (
            self._at(self.latitude, self.former_latitude, account, t),
            self._at(self.longitude, self.former_longitude, account, t),
        )

    def move(self, rng: np.random.Generator, places: Places, account: Ints, t: Ints) -> None:
        """Give accounts a new home from t on, half of them in the same city; each account at most once per call."""
        self.former_city[account] = self.city[account]
        self.former_latitude[account] = self.latitude[account]
        self.former_longitude[account] = self.longitude[account]
        elsewhere = rng.choice(places.cities, len(account), p=places.city_weight)
        self.city[account] = np.where(rng.random(len(account)) < 0.5, self.city[account], elsewhere)
        self.latitude[account], self.longitude[account] = _near(rng, places, self.city[account])
        self.since[account] = t

    def _at(self, now: Any, former: Any, account: Ints, t: Ints) -> Any:
        found = now[account]
        early = np.flatnonzero(t < self.since[account])
        found[early] = former[account[early]]
        return found


def _near(rng: np.random.Generator, places: Places, city: Ints) -> tuple[Floats, Floats]:
    return (
        places.city_latitude[city] + rng.normal(0.0, 0.08, len(city)),
        places.city_longitude[city] + rng.normal(0.0, 0.12, len(city)),
    )
