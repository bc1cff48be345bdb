"""Remove entries from the bus that no flow needs again: the bus holds events with their personal values.

The entries of an epoch are removed when two later epochs have begun (then the epoch is durable and its files are
published), and not before a minute after the bus accepted them, so that other readers see them (the scorer's `/readyz`,
flows that join this stream).
"""

from __future__ import annotations

from collections import deque
from typing import Final

import redis
import structlog

from feature_repo.privacy import Pseudonyms
from flows.settings import FlowSettings
from flows.sources.redis_reads import BusReads

log = structlog.get_logger(__name__)

TRIM_AFTER_EPOCHS: Final = 2
TRIM_AFTER_S: Final = 60


class BusRetention:
    """Removes the entries of one stream that are in the log, durably."""

    def __init__(self, part: str, stream: str, reads: BusReads) -> None:
        self._part, self._stream, self._reads = part, stream, reads
        self._epoch_ends: deque[str] = deque(maxlen=TRIM_AFTER_EPOCHS + 1)
        self._removed_to = "0-0"
        self._allowed = True

    def end_epoch(self, last_id: str) -> None:
        """Note the last entry of an epoch."""
        if self._allowed:
            self._epoch_ends.append(last_id)

    def remove_durable(self) -> None:
        """Remove the entries of durable epochs that are old enough by the server's clock.

        Raises redis-py's connection errors.
        """
        if len(self._epoch_ends) <= TRIM_AFTER_EPOCHS or self._epoch_ends[0] == self._removed_to:
            return
        durable = self._epoch_ends[0]
        try:
            ((seconds, _),) = self._reads.call(("TIME",))
            old = (int(seconds) - TRIM_AFTER_S) * 1000
            milliseconds, _, sequence = durable.partition("-")
            upto = (int(milliseconds), int(sequence) + 1)  # MINID names the first entry that stays
            first = min(upto, (old, 0))
            self._reads.call(("XTRIM", self._stream, "MINID", "=", f"{first[0]}-{first[1]}"))
        except redis.ResponseError as error:
            self._allowed = False
            self._epoch_ends.clear()
            log.warning(
                "bus.not_trimmed",
                partition=self._part,
                error=str(error),
                todo="events stay on the bus as they came: let this user XTRIM, or set MILLSTREAM_BUS_RETENTION=all",
            )
            return
        if first == upto:
            self._removed_to = durable


def trims_bus(pseudonyms: Pseudonyms, settings: FlowSettings) -> bool:
    """Whether a flow removes entries it has read (`MILLSTREAM_BUS_RETENTION`); any event may hold a name."""
    if settings.bus_retention == "auto":
        return pseudonyms.keyed
    return settings.bus_retention == "unread"
