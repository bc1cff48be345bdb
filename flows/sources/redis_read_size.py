"""How many entries a partition of the bus asks for: blocks and epochs are limited by number and by bytes."""

from __future__ import annotations

from typing import Final

from flows.blocks import BLOCK_BYTES
from flows.settings import FlowSettings
from flows.sources.redis_entries import Entries

_FIRST_ENTRIES: Final = 128
"""Entries of the first read, before the size of any entry is known."""


class ReadSize:
    """The limits of the next read.

    It starts small, doubles while a backlog is read, and follows the size of the entries.
    """

    def __init__(self, settings: FlowSettings, epoch_bytes: int) -> None:
        self._settings = settings
        self._epoch_bytes = epoch_bytes
        self._entries_in_epoch = self._bytes_in_epoch = 0
        self._max_entries = _FIRST_ENTRIES

    @property
    def next_read(self) -> int:
        """Most entries to ask for next; 0 or less when the epoch is full."""
        if self._bytes_in_epoch >= self._epoch_bytes:
            return 0
        left = self._settings.epoch_events - self._entries_in_epoch
        return min(self._settings.block_events, left, self._max_entries)

    def record(self, entries: Entries, asked: int) -> None:
        """Count entries that were read (at least one) of `asked`, and adapt the next read to a block's bytes."""
        size = int((entries.payloads.ends - entries.payloads.starts).sum())
        self._entries_in_epoch += len(entries)
        self._bytes_in_epoch += size
        fitting = max(BLOCK_BYTES * len(entries) // max(size, 1), 1)
        larger = 2 * max(self._max_entries, asked) if len(entries) >= asked else self._max_entries
        self._max_entries = min(larger, fitting)

    def start_epoch(self) -> None:
        """Begin an epoch of no entries."""
        self._entries_in_epoch = self._bytes_in_epoch = 0
