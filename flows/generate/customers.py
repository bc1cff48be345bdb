"""Customers, the holders of accounts: one row per version of a customer.

Names are a hash of the account. What changes is state: homes, errors in the bank's records, contacts, segment,
opening and closing. An account changes at most once per span.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.declare.stream import TIMESTAMP
from feature_repo.streams.customers import CUSTOMERS, SEGMENTS
from flows.generate.accounts import DAY_US, Accounts
from flows.generate.changelog_versions import MONTH_US, NEVER, Versions, in_snapshot
from flows.generate.draws import Bools, Floats, Ints, Subject, below
from flows.generate.payments import Span


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST: Final = _words(
    "Anna Ben Clara David Elif Felix Greta Hannes Ida Jonas Klara Leon Mira Nils Olga Paul Rosa Selim Tilda Umut Vera "
    "Wim Yara Zoe Aaron Bruno Celine Dorian Emre Frida Gustav Helene Ivo Jule Kaan Lotte Mats Nora Oskar Pia"
)
_LAST: Final = _words(
    "Achterberg Birkner Crusius Dornhoff Eschbach Falkner Grünwald Hollender Imhof Jansky Kestner Lindqvist Mertens "
    "Nordmann Oberlin Petrowa Quandt Rosenau Süderholz Tannhof Ulbrich Vossberg Wiesner Yilmazer Zehnder Ambach "
    "Brückmann Dietzel Engelmeer Fröbisch Gerlinger Hainbuch Isarin Kornblum Lauterbek Morgenroth"
)
_DOMAINS: Final = ("example.org", "mail.example.org", "post.example.org", "home.example.org")
_PHONES: Final = ("+493023125", "+494066969", "+496990009", "+4922147100", "+498999998")
"""Telephone numbers that the German regulator reserves for fiction; three digits follow (two for Cologne)."""


class _Change(IntEnum):
    MOVE = 0
    HOME_WRONG = 1
    CONTACT_WRONG = 2
    SEGMENT = 3
    CLOSE = 4
    OPEN = 5


_A_MONTH: Final = np.array([0.010, 0.008, 0.030, 0.005, 0.003])  # per account, by _Change
_LIVE_PAYMENTS_A_CHANGE = 100.0
_NOT_YET_OPEN, _OPENS_WITHIN_DAYS = 0.025, 75.0
_WRONG_HOMES = 0.03
_LATE, _LATE_AT_MOST_US = 0.4, 480e6
_STUDENT, _STANDARD, _PREMIUM, _BUSINESS = range(4)


@dataclass(slots=True)
class Customers:
    """Customers, one entry per account. `error_*`: error of the recorded home; `email`, `phone`: number of changes.

    `born` is a day since 1970-01-01.
    """

    seed: int
    accounts: Accounts
    opened: Ints
    closed: Ints
    error_latitude: Floats
    error_longitude: Floats
    email: Ints
    phone: Ints
    segment: Ints
    born: Ints

    STATE = ("opened", "closed", "error_latitude", "error_longitude", "email", "phone", "segment")

    @classmethod
    def draw(cls, rng: np.random.Generator, accounts: Accounts) -> "Customers":
        """Draw customers in their initial state; `announce` sets the opening of their accounts."""
        n = accounts.places.accounts
        wrong = rng.random(n) < _WRONG_HOMES
        rank = np.argsort(np.argsort(accounts.income_cents)) / n
        draw = rng.random(n)
        segment = np.full(n, _STANDARD, np.int64)
        segment[(rank < 0.35) & (draw < 0.35)] = _STUDENT
        segment[(rank > 0.80) & (draw < 0.65)] = _PREMIUM
        segment[draw > 0.94] = _BUSINESS
        return cls(
            seed=accounts.seed,
            accounts=accounts,
            opened=np.full(n, NEVER),
            closed=np.full(n, NEVER),
            error_latitude=np.where(wrong, rng.normal(0.0, 0.6, n), 0.0),
            error_longitude=np.where(wrong, rng.normal(0.0, 0.9, n), 0.0),
            email=np.zeros(n, np.int64),
            phone=np.zeros(n, np.int64),
            segment=segment,
            # 1940 to 2004, students 1996 to 2005.
            born=np.where(
                segment == _STUDENT, rng.integers(9_500, 13_150, n), rng.integers(-10_957, 12_743, n)
            ),
        )

    def announce(self, rng: np.random.Generator, start: int) -> Versions:
        """Set when accounts were opened: weeks to years before `start`, a few after it.

        Return the versions known at `start`.
        """
        n = len(self.opened)
        years = np.clip(np.exp(np.log(3.0) + rng.standard_normal(n)), 0.04, 25.0)
        self.opened = start - (years * 365.25 * DAY_US).astype(np.int64)
        later = rng.random(n) < _NOT_YET_OPEN
        soon = (rng.random(n) * _OPENS_WITHIN_DAYS * DAY_US).astype(np.int64)
        self.opened = np.where(later, start + soon, self.opened)
        there = np.flatnonzero(~later)
        t = in_snapshot(start, len(there))
        return Versions(self._rows(there, t, f"{start:x}.all"), t)

    def open_during(self, span: Span) -> Bools:
        """Return the mask of the accounts that are open at some time of a span."""
        return (self.opened < span.end) & (self.closed > span.start)

    def shut_at(self, account: Ints, t: Ints) -> Ints:
        """Return the indices of the given accounts that are not open at their t."""
        if not len(t):
            return np.zeros(0, np.int64)
        some = (self.opened > int(t.min())) | (self.closed <= int(t.max()))
        which = np.flatnonzero(some[account])
        account, t = account[which], t[which]
        return which[(t < self.opened[account]) | (t >= self.closed[account])]

    def young(self, t: int) -> Bools:
        """Return the mask of the accounts opened in the 90 days before t."""
        return (self.opened <= t) & (self.opened > t - 90 * DAY_US)

    def advance(self, rng: np.random.Generator, span: Span, payments: float) -> Versions:
        """Open, move, change and close accounts in a span; in live traffic at a rate per payment, not per day."""
        new = np.flatnonzero((self.opened >= span.start) & (self.opened < span.end))
        old = rng.permutation(np.flatnonzero((self.opened < span.start) & (self.closed == NEVER)))
        months = (span.end - span.start) / MONTH_US
        expected = _A_MONTH * months * len(old)
        if span.real_time:
            expected = _A_MONTH / _A_MONTH.sum() * payments / _LIVE_PAYMENTS_A_CHANGE
        changed = self._choose(rng.poisson(expected), old) | {_Change.OPEN: new}
        account = np.concatenate([*changed.values()])
        kind = np.repeat([*changed], [len(which) for which in changed.values()])
        arrival = span.start + (rng.random(len(account)) * (span.end - span.start)).astype(np.int64)
        arrival[kind == _Change.OPEN] = self.opened[new]
        # Corrections arrive some time after the change.
        corrected = (kind == _Change.HOME_WRONG) | (kind == _Change.CONTACT_WRONG)
        late = corrected & (rng.random(len(account)) < _LATE)
        behind = rng.uniform(0.06, 1.0, len(account)) * _LATE_AT_MOST_US
        t = arrival - np.where(late, behind, 0.0).astype(np.int64)

        self.accounts.homes.move(rng, self.accounts.places, changed[_Change.MOVE], t[kind == _Change.MOVE])
        mended, contact = changed[_Change.HOME_WRONG], changed[_Change.CONTACT_WRONG]
        self.error_latitude[mended] = 0.0
        self.error_longitude[mended] = 0.0
        other_phone = rng.random(len(contact)) < 0.4
        self.phone[contact[other_phone]] += 1
        self.email[contact[~other_phone]] += 1
        other = changed[_Change.SEGMENT]
        self.segment[other] = np.where(self.segment[other] == _STANDARD, _PREMIUM, _STANDARD)
        self.closed[changed[_Change.CLOSE]] = t[kind == _Change.CLOSE]

        order = np.lexsort((account, arrival))
        return Versions(self._rows(account[order], t[order], f"{span.start:x}"), arrival[order])

    def _choose(self, counts: Ints, old: Ints) -> dict[_Change, Ints]:
        """Assign accounts at random to changes; only a wrongly recorded home can be corrected."""
        wrong = self.error_latitude[old] != 0.0
        mended, others = old[wrong], old[~wrong]
        dealt: dict[_Change, Ints] = {}
        first = 0
        for change, count in zip(_Change, counts.tolist(), strict=False):
            if change is _Change.HOME_WRONG:
                dealt[change] = mended[:count]
            else:
                dealt[change] = others[first : first + count]
                first += count
        return dealt

    def _rows(self, account: Ints, t: Ints, run: str) -> pa.Table:
        """Return versions of the accounts' current state; that of a closed account is a deletion."""
        n, seed = len(account), self.seed
        gone = self.closed[account] != NEVER
        first = below(len(_FIRST), seed, Subject.PERSON, account)
        last = below(len(_LAST), seed, Subject.PERSON, account, 1)
        number = pa.array(account).cast(pa.string())
        changed = pa.array(self.email[account] + 1).cast(pa.string())
        address = pc.binary_join_element_wise(
            pc.take(_ascii(_FIRST), pa.array(first)),
            pc.take(_ascii(_LAST), pa.array(last)),
            number,
            changed,
            ".",
        )
        domain = pc.take(pa.array(_DOMAINS), pa.array(below(len(_DOMAINS), seed, Subject.CONTACT, account)))
        block = below(len(_PHONES), seed, Subject.CONTACT, account, 1)
        line = below(1_000, seed, Subject.CONTACT, account, 2, self.phone[account])
        line_text = pc.utf8_slice_codeunits(pa.array(line + 1_000).cast(pa.string()), 1)
        phone = pc.binary_join_element_wise(pc.take(pa.array(_PHONES), pa.array(block)), line_text, "")
        homes = self.accounts.homes
        columns = {
            "event_id": pc.binary_join_element_wise(
                f"k-{seed:x}.{run}", pa.array(np.arange(n)).cast(pa.string()), "-"
            ),
            "event_timestamp": pa.array(t).cast(TIMESTAMP),
            "account_id": pc.take(self.accounts.places.account_names, pa.array(account)),
            "deleted": pa.array(gone),
            "home_latitude": pa.array((homes.latitude + self.error_latitude)[account].round(5), mask=gone),
            "home_longitude": pa.array((homes.longitude + self.error_longitude)[account].round(5), mask=gone),
            "email": _unless(gone, pc.binary_join_element_wise(address, domain, "@")),
            "phone": _unless(gone, phone),
            "name": _unless(
                gone,
                pc.binary_join_element_wise(
                    pc.take(pa.array(_FIRST), pa.array(first)), pc.take(pa.array(_LAST), pa.array(last)), " "
                ),
            ),
            "birth_date": _unless(
                gone, pa.array(self.born[account].astype(np.int32), pa.date32()).cast(pa.string())
            ),
            "segment": pc.take(pa.array(SEGMENTS), pa.array(self.segment[account], mask=gone)),
            "opened_at": pa.array(self.opened[account], mask=gone).cast(TIMESTAMP),
        }
        return pa.table(
            {field.name: columns[field.name] for field in CUSTOMERS.schema}, schema=CUSTOMERS.schema
        )


def _ascii(names: tuple[str, ...]) -> Any:
    return pa.array([name.lower().replace("ü", "ue").replace("ö", "oe") for name in names])


def _unless(gone: Bools, values: Any) -> Any:
    return pc.if_else(pa.array(gone), pa.scalar(None, pa.string()), values)
