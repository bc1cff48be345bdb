"""Read dead letters: select by reason and time, name by origin, decrypt with the key."""

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
    """Selects dead letters: of these reasons (empty: all), received in [since, until).

    Letters of files have no such time.
    """

    reasons: Collection[str] = ()
    since: datetime | None = None
    until: datetime | None = None

    def __call__(self, row: dict[str, Any]) -> bool:
        """Return whether a dead letter is selected."""
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
    """Return the name of a dead letter, unique in a home: stream, source partition and offset.

    >>> from feature_repo.streams.payments import PAYMENTS
    >>> name_of(PAYMENTS, {"source_partition": "bus:payments:0", "source_offset": 7})
    'payments/bus:payments:0/7'
    """
    return f"{stream.name}/{row['source_partition']}/{row['source_offset']}"


def closed(stream: EventStream, settings: FlowSettings, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Yield the selected letters without payloads, which needs no key. Columns: `flows.blocks.DEAD_LETTER`."""
    for letters in read(stream, settings):
        yield from filter(wanted, letters.drop_columns(["payload"]).to_pylist())


def opened(stream: EventStream, settings: FlowSettings, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Yield the selected letters with their decrypted payloads (None: withheld).

    Raises `DataError` or `SettingsError` if the key is missing.
    """
    pseudonyms = privacy.of_settings(settings)
    for letters in read(stream, settings):
        about = letters.drop_columns(["payload"]).to_pylist()
        found = letters.filter(pa.array([wanted(row) for row in about], pa.bool_()))
        if any(key_of(payload or b"") is not None for payload in found["payload"].to_pylist()):
            found = decrypt(found, stream, pseudonyms)
        yield from found.to_pylist()
