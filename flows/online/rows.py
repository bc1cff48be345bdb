"""What a fold part sends to the online store's sink."""

from __future__ import annotations

from dataclasses import dataclass

from feature_repo.stores.online.script_calls import Calls
from flows.blocks import EntityKeys
from flows.online.rollback_detector import Progress


@dataclass(frozen=True, slots=True)
class OnlineRows:
    """States of one part, as the calls that write them."""

    entity: EntityKeys
    views: tuple[str, ...]
    """Ids of the view versions (`<view>:<version>`) whose states are in `rows`."""
    rows: Calls
    oldest_accepted_us: int
    """When the oldest event in these states was accepted, int64 microseconds UTC; 0 if no new event is in them."""
    filled: tuple[str, ...] = ()
    """Ids of versions of which the store has every state of the part, once these rows are written."""
    progress: Progress | None = None
    """Progress to store once everything sent so far is answered; None while all states are written again."""
