"""Feature freshness: whether payments that the bus accepted a while ago can be read from the online store.

Per partition of the bus, the last payments accepted longer ago than the limit are looked up. A payment is readable if
the stored event time of its account has reached it. A partition is fresh if at least half of them are readable, so that
dead letters, which never become readable, and late events do not decide alone. This needs no help from the flow and
covers everything between bus and store. An empty bus counts as fresh. A flow that keeps only unread entries on the bus
leaves few payments to look up while it works, and all when it stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from feature_repo.privacy import Pseudonyms, domain_of
from feature_repo.stores.clock import to_us
from feature_repo.stores.reader.plan import Plan
from feature_repo.stores.redis_layout.keys import decode_timestamp, key_prefix, key_values, time_field
from feature_repo.streams.payments import PAYMENTS
from serving import metrics
from serving.store.connection import StoreConnection
from serving.store.resp import pack

LOOKED_AT: Final = 16
"""Payments looked up per partition."""


@dataclass(frozen=True)
class Lookup:
    """Where a payment's newest event time is stored (key, field), and the event time (us) it must have reached."""

    partition: int
    key: bytes
    field: bytes
    event_us: int


async def check_features(
    store: StoreConnection,
    plan: Plan,
    pseudonyms: Pseudonyms,
    *,
    partitions: int,
    limit_seconds: float,
    seconds: float,
) -> tuple[bool, str]:
    """Return whether the features are fresh, and the detail for `/readyz`.

    `limit_seconds` is the age above which payments are looked up, `seconds` the time limit of each request to the
    store. Raises `OnlineStoreError` if the store does not answer.
    """
    ((server_s, server_us),) = await store.send(pack([[b"TIME"]]), 1, seconds)
    now_us = int(server_s) * 1_000_000 + int(server_us)
    last = str(now_us // 1000 - int(limit_seconds * 1000)).encode()
    ranges = [
        [b"XREVRANGE", b"millstream:payments:%d" % p, last, b"-", b"COUNT", b"%d" % LOOKED_AT]
        for p in range(partitions)
    ]
    replies = await store.send(pack(ranges), len(ranges), seconds)
    wanted = [
        lookup
        for p, entries in enumerate(replies)
        for lookup in _lookups(plan, pseudonyms, p, entries, now_us)
    ]
    if not wanted:
        metrics.FRESH_RATIO.set(1)
        return True, f"no payment on the bus was accepted more than {limit_seconds:g} s ago"
    times = await store.send(pack([[b"HGET", w.key, w.field] for w in wanted]), len(wanted), seconds)
    readable = [
        t is not None and decode_timestamp(t) >= w.event_us for w, t in zip(wanted, times, strict=True)
    ]
    metrics.FRESH_RATIO.set(sum(readable) / len(readable))
    stale = []
    for p in range(partitions):
        mine = [ok for ok, w in zip(readable, wanted, strict=True) if w.partition == p]
        if mine and 2 * sum(mine) < len(mine):
            stale.append(f"{len(mine) - sum(mine)} of {len(mine)} on millstream:payments:{p}")
    if stale:
        return False, (
            f"payments accepted more than {limit_seconds:g} s ago are not readable: {', '.join(stale)}; "
            "check the flow (python -m bytewax.run flows.payments)"
        )
    return True, (
        f"{sum(readable)} of the last {len(readable)} payments accepted more than {limit_seconds:g} s ago are readable"
    )


def _lookups(
    plan: Plan, pseudonyms: Pseudonyms, partition: int, entries: Sequence[Any], now_us: int
) -> list[Lookup]:
    """Return the lookups for a partition's entries; what is not a payment is skipped (the flow dead-letters it)."""
    found = []
    for _, fields in entries:
        try:
            event = orjson.loads(dict(zip(fields[::2], fields[1::2], strict=True))[b"v"])
            event_us = to_us(datetime.fromisoformat(event["event_timestamp"]))
            read = next(r for r in plan.windowed if all(isinstance(event[c], str) for c in r.entity_columns))
        except (ValueError, KeyError, TypeError, StopIteration):
            continue
        if event_us < now_us - read.spec.retention_us:
            continue  # its state may have expired
        values = [
            pseudonyms.of(event[c], domain_of(c, PAYMENTS.personal[c]))
            if c in PAYMENTS.personal
            else event[c]
            for c in read.entity_columns
        ]
        key = key_prefix(read.spec.join_keys) + key_values(values)
        found.append(Lookup(partition, key + plan.project.encode(), time_field(read.spec.name), event_us))
    return found
