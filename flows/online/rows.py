"""What a fold part hands to the online store's sink."""

from __future__ import annotations

from dataclasses import dataclass

from feature_repo.stores.online.script_calls import Calls
from flows.blocks import EntityKeys
from flows.online.loss_detector import Mark


@dataclass(frozen=True, slots=True)
class OnlineRows:
    """States on their way to the online store, as the commands that write them.

    `new` are the same rows as commands that make a key where there is none, which is tried first if there are any.
    `filled` are versions of which, with these rows, every state of the part is in the store; `mark` says that all it
    ever sent is.
    """

    entity: EntityKeys
    views: tuple[str, ...]
    rows: Calls
    oldest_accepted_us: int
    filled: tuple[str, ...] = ()
    mark: Mark | None = None
