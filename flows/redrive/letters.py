"""Dead letters as a person works with them: named by where they came from, chosen by reason and time, opened with the key."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from feature_repo import privacy
from flows.log.dead_letters import decrypt, read
from flows.privacy.payload_cipher import key_of
from flows.settings import FlowSettings
from flows.streams import EventStream


@dataclass(frozen=True)
class Wanted:
    """Which letters: of these reasons (all if none is named), accepted in [since, until). A letter of a file has no accept time."""

    reasons: Collection[str] = ()
    since: datetime | None = None
    until: datetime | None = None

    def __call__(self, row: dict[str, Any]) -> bool:
        """Whether it is one, by its reason and accept time."""
        if self.reasons and row["reason"] not in self.reasons:
            return False
        if self.since is None and self.until is None:
            return True
        at = row["created_timestamp"]
        return (
            at is not None
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
        )


def name_of(stream: EventStream, row: dict[str, Any]) -> str:
    """What a letter is called: no other event of the home ever came from the same place.

    >>> from feature_repo.streams.payments import PAYMENTS
    >>> name_of(PAYMENTS, {"source_partition": "bus:payments:0", "source_offset": 7})
    'payments/bus:payments:0/7'
    """
    return f"{stream.name}/{row['source_partition']}/{row['source_offset']}"


def closed(stream: EventStream, settings: FlowSettings, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Wanted letters without their payloads: no key is needed. `flows.blocks.DEAD_LETTER` has the columns."""
    for letters in read(stream, settings):
        yield from filter(wanted, letters.drop_columns(["payload"]).to_pylist())


def opened(stream: EventStream, settings: FlowSettings, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Wanted letters with the payloads that came in (None: withheld). Raises `DataError` or `SettingsError` where the key is missing."""
    pseudonyms = privacy.of_settings(settings)
    for letters in read(stream, settings):
        about = letters.drop_columns(["payload"]).to_pylist()
        found = letters.filter(pa.array([wanted(row) for row in about], pa.bool_()))
        if any(key_of(payload or b"") is not None for payload in found["payload"].to_pylist()):
            found = decrypt(found, stream, pseudonyms)
        yield from found.to_pylist()
