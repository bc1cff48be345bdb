"""A seeded world of accounts and merchants, which generates events for one span of time after another.

Habits depend on the seed, and the events of a span on the seed and the span. Balances, homes, the state of customers
and merchants, copied cards and unfinished thefts are carried from span to span, so live traffic continues where the
history ended.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.declare.stream import TIMESTAMP
from feature_repo.errors import DataError
from feature_repo.files import replaced
from feature_repo.streams.payments import PAYMENTS, TYPES
from flows.generate.accounts import DAY_US, Accounts
from flows.generate.changelog_versions import Versions
from flows.generate.charges import charge_payments
from flows.generate.customers import Customers
from flows.generate.draws import Floats, Ints
from flows.generate.frauds import plan_frauds, worth
from flows.generate.homes import Homes
from flows.generate.labels import label_payments
from flows.generate.leaks import Leaks
from flows.generate.ledger import DROPPED, TOPPED_UP, settle
from flows.generate.merchants import Merchants
from flows.generate.payments import Span, plan_honest
from flows.generate.places import Places
from flows.generate.plan import CHANNELS, NOTHING, Channel, Kind, Plan, concat, empty

CURRENCY = "EUR"
_LIVE_CHUNK_US = 5_000_000
_WEEK = np.array([1.0, 1.12, 1.1, 0.78, 0.97, 1.0, 1.03])  # from Thursday on, the first day of the epoch
_HONEST, _FRAUD, _LABELS, _WORLD, _CUSTOMERS, _MERCHANTS, _CHARGES, _LEAKS, _OPENINGS = range(1, 10)


class Events(NamedTuple):
    """The events of a span: payments sorted by event_timestamp, and all labels they will ever get.

    Versions of customers and merchants, and charges, are in order of arrival; the first span of a world begins with
    one version of each customer and merchant.
    """

    payments: pa.Table
    labels: pa.Table
    customers: Versions
    merchants: Versions
    charges: Versions


def payments_a_day(payments: int, start: int, end: int) -> float:
    """Return the daily rate (of an average weekday) that gives so many payments in [start, end) (us)."""
    edges = [start, *range((start // DAY_US + 1) * DAY_US, end, DAY_US), end]
    weight = sum((high - low) / DAY_US * _WEEK[low // DAY_US % 7] for low, high in pairwise(edges))
    return float(payments / weight)


class World:
    """Accounts, merchants and their balances. It has state and is not thread-safe."""

    def __init__(
        self,
        seed: int = 1,
        *,
        accounts: int = 5_000,
        merchants: int = 500,
        payments_a_day: float = 7_500.0,
        fraud_share: float = 0.008,
    ) -> None:
        """Draw the world; `fraud_share` is the expected share of fraud. Raises `DataError` if it is too small."""
        if accounts < 10 or merchants < 10:
            msg = f"a world of {accounts} accounts and {merchants} merchants is too small for fraud"
            raise DataError(msg, todo="choose at least 10 of each")
        self.seed = seed
        self.payments_a_day = payments_a_day
        self.fraud_share = fraud_share
        rng = self._rng(_WORLD, 0)
        self.places = Places.draw(rng, accounts=accounts, merchants=merchants)
        self.accounts = Accounts.draw(rng, self.places, seed=seed, payments_a_day=payments_a_day)
        self.balance = self.accounts.opening_cents(rng)
        self.customers = Customers.draw(rng, self.accounts)
        self.merchants = Merchants.draw(rng, self.places, seed=seed)
        self.leaks = Leaks.none()
        self._announced = False
        self._carried = empty()

    def payments(self, start: int, end: int) -> Iterator[Events]:
        """Yield the events of [start, end) (us), one UTC day or part of a day at a time."""
        while start < end:
            day_end = min((start // DAY_US + 1) * DAY_US, end)
            share_of_day = (day_end - start) / DAY_US
            expected = self.payments_a_day * share_of_day * _WEEK[start // DAY_US % 7]
            incomes = self.places.accounts / 28 * share_of_day
            run = f"{self.seed:x}.{start:x}"
            yield self._advance(Span(start, day_end), expected, expected - incomes, run=run, first=0)
            start = day_end

    def live(
        self, start: int, *, rate: float, seconds: float | None = None, block_seconds: float = 0.1
    ) -> Iterator[Events]:
        """Yield live traffic of `rate` payments per second from `start` (us) on, in blocks of `block_seconds`.

        Without `seconds` it never ends. Blocks follow each other without gaps; some are empty. This function does not
        wait: the caller publishes each block at its time. Thefts run faster than in `payments`, so that a short run
        has whole ones.
        """
        if len(self._carried):
            # Unfinished thefts of the history end there, unless live traffic starts at once.
            self._carried = self._carried.take(self._carried.t >= start)
        block = max(int(block_seconds * 1e6), 1)
        chunk = max(_LIVE_CHUNK_US // block, 1) * block
        stop = None if seconds is None else start + int(seconds * 1e6)
        for events, begin, end in _charges_by_arrival(self._stretches(start, stop, chunk, rate)):
            yield from _blocks(events, begin, end, block)

    def _stretches(
        self, start: int, stop: int | None, length: int, rate: float
    ) -> Iterator[tuple[Events, int, int]]:
        """Yield the events of `length` microseconds after the other, with start and end of each stretch."""
        run, first = f"{self.seed:x}.live.{start:x}", 0
        while stop is None or start < stop:
            end = start + length if stop is None else min(start + length, stop)
            expected = rate * (end - start) / 1e6
            events = self._advance(Span(start, end, real_time=True), expected, expected, run=run, first=first)
            first += events.payments.num_rows
            yield events, start, end
            start = end

    def save(self, folder: Path) -> Path:
        """Write the state as `world.npz`, without pickles; return its path."""
        parameters = {
            "seed": self.seed,
            "accounts": self.places.accounts,
            "merchants": self.places.merchants,
            "payments_a_day": self.payments_a_day,
            "fraud_share": self.fraud_share,
        }
        state = {
            f"{part}.{name}": getattr(holder, name)
            for part, (holder, names) in self._state().items()
            for name in names
        }
        path = folder / "world.npz"
        with replaced(path, durable=False) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                parameters=np.frombuffer(orjson.dumps(parameters), np.uint8),
                balance=self.balance,
                announced=np.array(self._announced),
                **state,
            )
        return path

    @classmethod
    def open(cls, folder: Path) -> "World":
        """Return the world saved in a folder. Raises `DataError` if there is none."""
        path = folder / "world.npz"
        if not path.exists():
            msg = "no world to continue"
            raise DataError(msg, where=path, todo="generate a history there first")
        with np.load(path, allow_pickle=False) as stored:
            if "announced" not in stored:
                msg = "a world of an earlier version, without customers and merchants"
                raise DataError(msg, where=path, todo="generate the history again")
            world = cls(**orjson.loads(stored["parameters"].tobytes()))
            world.balance = stored["balance"]
            world._announced = bool(stored["announced"])
            for part, (holder, names) in world._state().items():
                for name in names:
                    setattr(holder, name, stored[f"{part}.{name}"])
        return world

    def _state(self) -> dict[str, tuple[Any, Sequence[str]]]:
        """Return the state besides the balances: part -> object and names of its arrays."""
        return {
            "carried": (self._carried, Plan.__slots__),
            "homes": (self.accounts.homes, Homes.__slots__),
            "customers": (self.customers, Customers.STATE),
            "merchants": (self.merchants, Merchants.STATE),
            "leaks": (self.leaks, Leaks.STATE),
        }

    def _rng(self, purpose: int, start: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, start])

    def _advance(self, span: Span, expected: float, planned: float, *, run: str, first: int) -> Events:
        """Plan and settle a span; keep what was planned beyond its end for the next one."""
        customers, merchants = self._change(span, expected)
        there = self.customers.open_during(span)
        accounts = replace(self.accounts, activity=self.accounts.activity * there)
        wanted = worth(self.balance, young=self.customers.young(span.start), open_=there)
        frauds = expected * self.fraud_share
        honest_rng, fraud_rng = self._rng(_HONEST, span.start), self._rng(_FRAUD, span.start)
        honest = max(int(honest_rng.poisson(max(planned - frauds, 0.0))), 0)
        plan = concat(
            [
                self._carried,
                plan_honest(honest_rng, accounts, span, honest),
                plan_frauds(fraud_rng, accounts, self.merchants, self.leaks, span, wanted, frauds),
            ]
        )
        t = plan.t
        order = np.argsort(t, kind="stable")
        now = int(np.searchsorted(t, span.end, sorter=order))
        self._carried = plan.take(order[now:])
        plan = plan.take(order[:now])
        shut = self.customers.shut_at(plan.account, plan.t)
        if len(shut):
            plan = plan.take(np.delete(np.arange(len(plan)), shut))
        self._divert(plan)
        plan, payments, labels = self._settle(plan, run=run, first=first)
        self.leaks.take_in(self._rng(_LEAKS, span.start), self.seed, self.places.merchants, plan, span.start)
        charges = charge_payments(
            self._rng(_CHARGES, span.start),
            self.seed,
            self.merchants,
            plan,
            payments["event_id"].combine_chunks(),
        )
        return Events(payments, labels, customers, merchants, charges)

    def _change(self, span: Span, expected: float) -> tuple[Versions, Versions]:
        """Change customers and merchants in a span; the first span begins with one version of each."""
        parts = []
        for part, purpose in ((self.customers, _CUSTOMERS), (self.merchants, _MERCHANTS)):
            versions = []
            if not self._announced:
                versions.append(part.announce(self._rng(_OPENINGS, purpose), span.start))
            versions.append(part.advance(self._rng(purpose, span.start), span, expected))
            parts.append(
                Versions(
                    pa.concat_tables([version.table for version in versions]),
                    np.concatenate([version.arrivals for version in versions]),
                )
            )
        self._announced = True
        return parts[0], parts[1]

    def _divert(self, plan: Plan) -> None:
        """Replace payees that are closed or the payer itself; payments to online shops use the channel web."""
        places = self.places
        plan.payee = self.merchants.open_for(plan.payee, plan.t)
        number = plan.payee - places.merchants
        ours = np.flatnonzero((number >= 0) & (number < places.accounts))
        shut = ours[self.customers.shut_at(number[ours], plan.t[ours])]
        plan.payee[shut] = places.account_elsewhere(number[shut])
        itself = plan.payee == places.account(plan.account)
        plan.payee = np.where(itself, self.accounts.savings(plan.account), plan.payee)
        in_person = np.flatnonzero((plan.kind == Kind.PAYMENT) & (plan.channel == Channel.POS))
        online = self.merchants.online[np.minimum(plan.payee[in_person], places.merchants - 1)]
        plan.channel[in_person[online]] = Channel.WEB

    def _settle(self, plan: Plan, *, run: str, first: int) -> tuple[Plan, pa.Table, pa.Table]:
        """Settle a plan; return the settled plan, its payments and their labels."""
        n, places = len(plan), self.places
        ours = (plan.payee >= places.merchants) & (plan.payee < places.merchants + places.accounts)
        before, after, fate = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
        receiver_before, receiver_after = np.full(n, NOTHING, np.int64), np.full(n, NOTHING, np.int64)
        wanted_share = plan.share
        settle(
            self.balance,
            plan.account,
            np.where(ours, plan.payee - places.merchants, NOTHING),
            plan.kind == Kind.CASH_IN,
            plan.share,
            plan.fraud > 0,
            np.maximum(self.accounts.income_cents[plan.account] // 4 // 1_000 * 1_000, 2_000),
            plan.cents,
            before,
            after,
            receiver_before,
            receiver_after,
            fate,
        )
        topped_up = fate == TOPPED_UP
        plan.kind = np.where(topped_up, Kind.CASH_IN, plan.kind)
        employer = self.accounts.employer(plan.account[topped_up])
        plan.payee[topped_up] = self.merchants.open_for(employer, plan.t[topped_up])
        plan.channel = np.where(topped_up, Channel.APP, plan.channel)
        happened = np.flatnonzero(fate != DROPPED)
        plan = plan.take(happened)
        suspicious = np.where(plan.kind == Kind.CASH_IN, 0.0, 1e-3 + wanted_share[happened])
        event_id = _ids("p-" + run, first, len(plan))
        names = pc.take(places.names, pa.array(plan.payee))
        columns = [
            event_id,
            pa.array(plan.t).cast(TIMESTAMP),
            pc.take(places.account_names, pa.array(plan.account)),
            names,
            pc.take(pa.array(TYPES), pa.array(plan.kind)),
            pa.array(plan.cents / 100.0),
            pa.repeat(pa.scalar(CURRENCY), len(plan)),
            pa.array(before[happened] / 100.0),
            pa.array(after[happened] / 100.0),
            _money(receiver_before[happened]),
            _money(receiver_after[happened]),
            pa.array(plan.latitude, from_pandas=True),
            pa.array(plan.longitude, from_pandas=True),
            pc.take(pa.array(CHANNELS), _or_null(plan.channel)),
            pc.binary_join_element_wise("d-", _or_null(plan.device).cast(pa.string()), ""),
        ]
        payments = pa.Table.from_arrays(columns, schema=PAYMENTS.schema)
        rng = self._rng(_LABELS, int(plan.t[0]) if len(plan) else 0)
        return plan, payments, label_payments(rng, payments, plan.t, plan.fraud, suspicious)


def _ids(prefix: str, first: int, n: int) -> Any:
    return pc.binary_join_element_wise(prefix, pa.array(np.arange(first, first + n)).cast(pa.string()), "-")


def _or_null(codes: Ints) -> Any:
    return pa.array(codes, mask=codes == NOTHING)


def _money(cents: Ints) -> Any:
    values: Floats = cents / 100.0
    return pa.array(values, mask=cents == NOTHING)


def _charges_by_arrival(stretches: Iterator[tuple[Events, int, int]]) -> Iterator[tuple[Events, int, int]]:
    """Move charges to the stretch they arrive in, which may be the one before or after that of their payment."""
    held: tuple[Events, int, int] | None = None
    for events, start, end in stretches:
        if held is not None:
            charges = held[0].charges.merged(events.charges)
            cut = int(np.searchsorted(charges.arrivals, start))
            yield held[0]._replace(charges=charges.slice(0, cut)), *held[1:]
            events = events._replace(charges=charges.slice(cut, len(charges.arrivals)))  # noqa: PLW2901
        held = events, start, end
    if held is not None:
        yield held


def _blocks(events: Events, start: int, end: int, block: int) -> Iterator[Events]:
    """Cut events into blocks of `block` microseconds: payments by their own time, the others by their arrival.

    Labels are in the block of their payment. Rows that arrive before or after the span are in its first or last block.
    """
    edges = np.arange(start, end, block)[1:]
    payments = events.payments["event_timestamp"].cast(pa.int64()).to_numpy()
    parts = (events.customers, events.merchants, events.charges)
    cuts = [_cuts(t, edges) for t in (payments, *(part.arrivals for part in parts))]
    for (low, high), *others in zip(*cuts, strict=True):
        rows = events.payments.slice(low, high - low)
        mine = pc.is_in(events.labels["payment_id"], rows["event_id"].combine_chunks())
        labels = events.labels.filter(mine) if high > low else events.labels.slice(0, 0)
        yield Events(rows, labels, *(part.slice(*cut) for part, cut in zip(parts, others, strict=True)))


def _cuts(t: Ints, edges: Ints) -> Iterator[tuple[int, int]]:
    return pairwise([0, *np.searchsorted(t, edges).tolist(), len(t)])
