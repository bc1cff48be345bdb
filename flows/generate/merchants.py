"""Merchants: one row per version of a merchant.

Small merchants open and close; while one is closed, a neighbour gets its customers. Frauds prefer some merchants: see
`fences`.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.declare.stream import TIMESTAMP
from feature_repo.streams.merchants import MERCHANTS, RISK_TIERS
from flows.generate.accounts import DAY_US
from flows.generate.changelog_versions import MONTH_US, NEVER, Versions, in_snapshot
from flows.generate.draws import Bools, Floats, Ints
from flows.generate.payments import Span
from flows.generate.places import Places

CATEGORIES: Final = (
    "pharmacy", "grocery", "bakery", "restaurant", "digital", "fuel", "books", "fashion", "gambling", "furniture",
    "electronics", "travel", "jewellery",
)  # fmt: skip
"""Categories of merchants, by ascending typical price."""

_RISKY: Final = ("digital", "gambling", "electronics", "jewellery")
_A_MONTH: Final = np.array([0.06, 0.02, 0.008])  # rated anew, another trade, closed
_LIVE_PAYMENTS_A_CHANGE = 400.0
_NOT_YET_OPEN, _YOUNG, _OPENS_WITHIN_DAYS = 0.08, 0.08, 75.0
_ON_LINE = 0.22
_NO_3DS = 0.15
_FENCE_WEIGHT: Final = np.array([1.0, 2.0, 4.0])  # by risk tier
_FENCE_SLOTS = 4_096


@dataclass(slots=True)
class Merchants:
    """Merchants, one entry each. `neighbour` gets the customers of a closed one; `fences` are preferred by thieves."""

    seed: int
    places: Places
    category: Ints
    tier: Ints
    latitude: Floats
    longitude: Floats
    online: Bools
    skips_3ds: Bools
    small: Bools
    neighbour: Ints
    fences: Ints
    opened: Ints
    closed: Ints

    STATE = ("category", "tier", "fences", "opened", "closed")

    @classmethod
    def draw(cls, rng: np.random.Generator, places: Places, *, seed: int) -> "Merchants":
        """Draw merchants; `announce` sets their opening."""
        n, kinds = places.merchants, len(CATEGORIES)
        dearness = np.argsort(np.argsort(places.merchant_price)) / n + rng.normal(0.0, 0.12, n)
        category = np.clip((dearness * kinds).astype(np.int64), 0, kinds - 1)
        risky = np.isin(category, [CATEGORIES.index(name) for name in _RISKY])
        draw = rng.random(n) - np.where(risky, 0.2, 0.0)
        customers = np.bincount(places.shops_of_all, minlength=n)
        small = np.argsort(np.argsort(customers, kind="stable"), kind="stable") < 0.6 * n
        stable = np.flatnonzero(~small)
        # A lasting merchant, of the same city where there is one.
        neighbour = stable[rng.integers(0, len(stable), n)]
        for city in range(places.cities):
            here = stable[places.merchant_city[stable] == city]
            mine = np.flatnonzero(places.merchant_city == city)
            if len(here):
                neighbour[mine] = here[rng.integers(0, len(here), len(mine))]
        return cls(
            seed=seed,
            places=places,
            category=category,
            tier=np.select([draw < 0.06, draw < 0.28], [2, 1], 0).astype(np.int64),
            latitude=(places.city_latitude[places.merchant_city] + rng.normal(0.0, 0.05, n)).round(5),
            longitude=(places.city_longitude[places.merchant_city] + rng.normal(0.0, 0.08, n)).round(5),
            online=rng.random(n) < _ON_LINE,
            skips_3ds=rng.random(n) < _NO_3DS,
            small=small,
            neighbour=neighbour,
            fences=np.zeros(0, np.int64),
            opened=np.full(n, NEVER),
            closed=np.full(n, NEVER),
        )

    def announce(self, rng: np.random.Generator, start: int) -> Versions:
        """Set when merchants opened: months to decades before `start`, a few after it.

        Return the versions known at `start`.
        """
        n = len(self.opened)
        years = np.clip(np.exp(np.log(5.0) + 0.9 * rng.standard_normal(n)), 0.3, 60.0)
        draw, when = rng.random(n), (rng.random(n) * _OPENS_WITHIN_DAYS * DAY_US).astype(np.int64)
        later = self.small & (draw < _NOT_YET_OPEN)
        young = self.small & ~later & (draw < _NOT_YET_OPEN + _YOUNG)
        self.opened = np.select(
            [later, young], [start + when, start - when], start - (years * 365.25 * DAY_US).astype(np.int64)
        )
        weight = np.cumsum(_FENCE_WEIGHT[self.tier] * np.where(young | later, 2.5, 1.0))
        self.fences = np.searchsorted(weight, rng.random(_FENCE_SLOTS) * weight[-1], side="right").astype(
            np.int64
        )
        there = np.flatnonzero(~later)
        t = in_snapshot(start, len(there))
        return Versions(self._rows(there, t, f"{start:x}.all"), t)

    def advance(self, rng: np.random.Generator, span: Span, payments: float) -> Versions:
        """Open, re-rate, change and close merchants in a span; return their new versions."""
        new = np.flatnonzero((self.opened >= span.start) & (self.opened < span.end))
        old = rng.permutation(np.flatnonzero((self.opened < span.start) & (self.closed == NEVER)))
        expected = _A_MONTH * (span.end - span.start) / MONTH_US * len(old)
        if span.real_time:
            expected = _A_MONTH / _A_MONTH.sum() * payments / _LIVE_PAYMENTS_A_CHANGE
        counts = np.minimum(rng.poisson(expected), len(old) // 4)
        retiered, traded, closed = np.split(old[: counts.sum()], np.cumsum(counts)[:-1])
        closed = closed[self.small[closed]]
        account = np.concatenate([new, retiered, traded, closed])
        t = span.start + (rng.random(len(account)) * (span.end - span.start)).astype(np.int64)
        t[: len(new)] = self.opened[new]
        self.tier[retiered] = np.where(self.tier[retiered] == 1, rng.choice([0, 2], len(retiered)), 1)
        self.category[traded] = rng.integers(0, len(CATEGORIES), len(traded))
        self.closed[closed] = t[len(account) - len(closed) :]
        order = np.lexsort((account, t))
        return Versions(self._rows(account[order], t[order], f"{span.start:x}"), t[order])

    def open_for(self, payee: Ints, t: Ints) -> Ints:
        """Return the payees; a merchant that is not open at its t is replaced by its neighbour."""
        if not len(t):
            return payee
        some = np.zeros(len(self.places.names), np.bool_)
        some[: len(self.opened)] = (self.opened > int(t.min())) | (self.closed <= int(t.max()))
        which = np.flatnonzero(some[payee])
        merchant = payee[which]
        shut = (t[which] < self.opened[merchant]) | (t[which] >= self.closed[merchant])
        payee = payee.copy()
        payee[which[shut]] = self.neighbour[merchant[shut]]
        return payee

    def _rows(self, merchant: Ints, t: Ints, run: str) -> pa.Table:
        """Return versions of the merchants' current state; that of a closed one is a deletion."""
        n = len(merchant)
        gone = self.closed[merchant] != NEVER
        nowhere = gone | self.online[merchant]
        columns = {
            "event_id": pc.binary_join_element_wise(
                f"s-{self.seed:x}.{run}", pa.array(np.arange(n)).cast(pa.string()), "-"
            ),
            "event_timestamp": pa.array(t).cast(TIMESTAMP),
            "merchant_id": pc.take(self.places.names, pa.array(merchant)),
            "deleted": pa.array(gone),
            "category": pc.take(pa.array(CATEGORIES), pa.array(self.category[merchant], mask=gone)),
            "latitude": pa.array(self.latitude[merchant], mask=nowhere),
            "longitude": pa.array(self.longitude[merchant], mask=nowhere),
            "risk_tier": pc.take(pa.array(RISK_TIERS), pa.array(self.tier[merchant], mask=gone)),
            "opened_at": pa.array(self.opened[merchant], mask=gone).cast(TIMESTAMP),
        }
        return pa.table(
            {field.name: columns[field.name] for field in MERCHANTS.schema}, schema=MERCHANTS.schema
        )
