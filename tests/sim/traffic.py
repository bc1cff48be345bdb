"""Payments to publish in the order they arrive, and what must become of each by the words of `docs/concepts.md`.

The judgement here is plain Python, an event at a time, and shares no code with `flows.steps`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from tests.kits.payments import START, encoded, payment

LATENESS_US = 600_000_000
AHEAD_US = 300_000_000
MONTH_US = 30 * 86_400_000_000
ACCEPTED = "accepted"
START_US = int(START.timestamp()) * 1_000_000


@dataclass
class Judge:
    """One partition: who gets in, in order of arrival."""

    watermark: int = -(2**62)
    accepted: dict[str, int] = field(default_factory=dict)

    def decide(self, wrong: str, identity: str, time_us: int, accepted_us: int) -> str:
        """`accepted`, or the reason of the dead letter."""
        if wrong:
            return wrong
        floor = self.watermark - LATENESS_US
        if time_us > accepted_us + AHEAD_US:
            return "future"
        if time_us < floor:
            return "late"
        if self.accepted.get(identity, -(2**63)) >= floor:
            return "duplicate"
        self.watermark = max(self.watermark, time_us)
        self.accepted[identity] = time_us
        return ACCEPTED


@dataclass(frozen=True)
class Published:
    """One entry of the bus, and what must become of it.

    `new_payee`: no payment to the payee before, within 30 days of its event time.
    """

    partition: int
    payload: bytes
    fate: str
    new_payee: bool


class Traffic:
    """Payments of a few accounts, each always in the same partition; `next` makes one, as of the time it arrives."""

    def __init__(self, partitions: int, draw: Random) -> None:
        self._draw = draw
        self._judges = [Judge() for _ in range(partitions)]
        self._seen: list[list[dict[str, Any]]] = [[] for _ in range(partitions)]
        self._paid: dict[tuple[str, str], list[int]] = {}
        self._number = 0

    def next(self, now_us: int) -> Published:
        """The next entry, and its fate, when it arrives now."""
        draw = self._draw
        self._number += 1
        account = draw.randrange(5)
        partition = account % len(self._judges)
        kind = draw.random()
        seen = self._seen[partition]
        if kind < 0.15 and seen:
            event = draw.choice(seen[-12:])
        else:
            behind = (
                draw.choice((0, 0, 0, 30, 300, 599, 601, 1200))
                if kind < 0.9
                else draw.choice((-299, -301, -3000))
            )
            at = START + timedelta(microseconds=now_us // 1000 * 1000 - START_US, seconds=-behind)
            event = payment(self._number, at, account_id=f"a{account}", merchant_id=f"m{draw.randrange(4)}")
            seen.append(event)
        wrong, payload = "", encoded(event)
        if draw.random() < 0.05:
            wrong, payload = draw.choice(
                (
                    ("malformed", payload[: draw.randrange(len(payload))]),
                    ("schema", encoded({**event, "amount": "much"})),
                    ("check", encoded({**event, "amount": -1.0})),
                )
            )
        time_us = round(datetime.fromisoformat(event["event_timestamp"]).timestamp() * 1_000_000)
        fate = self._judges[partition].decide(wrong, event["event_id"], time_us, now_us // 1000 * 1000)
        new_payee = True
        if fate == ACCEPTED:
            times = self._paid.setdefault((event["account_id"], event["merchant_id"]), [])
            new_payee = not any(time_us - MONTH_US <= t < time_us for t in times)
            times.append(time_us)
        return Published(partition, payload, fate, new_payee)
