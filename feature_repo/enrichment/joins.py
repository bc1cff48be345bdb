"""Which columns of other streams an event is given before it is logged.

An `AsOfJoin` takes the version of a key that was true at the event's time, as far as it was known when the event was
accepted: of the changelog's rows with `event_timestamp` and `created_timestamp` both at most the event's own, the one
with the greatest (`event_timestamp`, `created_timestamp`). So it is a function of the two logs, and a replay gives
the same. An `IdJoin` takes the columns of the one event with an id, whenever it happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class AsOfJoin:
    """Columns of the changelog `stream`, whose rows are versions of `their_key`, for the event's `key`.

    `columns` maps the changelog's names to the event's. Versions older than `within` do not count (None: all do).
    """

    stream: str
    key: str
    their_key: str
    columns: Mapping[str, str]
    within: timedelta | None = None


@dataclass(frozen=True)
class IdJoin:
    """Columns of the event of `stream` whose id is the event's `key`; what the event says itself is kept.

    Events older than that by far (24 times `within`) need not be remembered.
    """

    stream: str
    key: str
    columns: Mapping[str, str]
    within: timedelta


Join = AsOfJoin | IdJoin
