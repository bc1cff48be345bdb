"""Entries of a Redis stream as blocks of a flow: an entry id becomes an offset, its milliseconds the accept time."""

from __future__ import annotations

from typing import Any, Final

from feature_repo.errors import FlowError
from flows.blocks import RawBlock
from flows.sources.redis_entries import Entries

SEQUENCE_BITS: Final = 20
"""An offset holds the milliseconds of an entry id above these bits, and its sequence number in them."""


def stream_key(part: str) -> str:
    """Return the Redis key of a source partition.

    >>> stream_key("bus:payments:0")
    'millstream:payments:0'
    """
    return part.replace("bus:", "millstream:", 1)


def offset_of(entry: str) -> int:
    """Return the offset of an entry id; -1 for `0-0`, which is before the first entry.

    >>> offset_of("7-1") == (7 << SEQUENCE_BITS) + 1
    True
    """
    milliseconds, _, sequence = entry.partition("-")
    return -1 if entry == "0-0" else (int(milliseconds) << SEQUENCE_BITS) | int(sequence)


def entry_id(offset: int) -> str:
    """Return the entry id of an offset.

    >>> entry_id(offset_of("7-1"))
    '7-1'
    """
    return f"{offset >> SEQUENCE_BITS}-{offset & ((1 << SEQUENCE_BITS) - 1)}"


def raw_block(part: str, entries: list[Any], began: int = -1) -> RawBlock:
    """Make a block of one partition from raw replies `[id, [field, value, ...]]`."""
    return block_of(part, Entries.of(entries), began)


def block_of(part: str, entries: Entries, began: int) -> RawBlock:
    """Make a block of one partition. Raises `FlowError` for a sequence number that does not fit an offset."""
    milliseconds, sequence = entries.milliseconds, entries.sequence
    if int(sequence.max()) >> SEQUENCE_BITS:
        at = int(sequence.argmax())
        raise FlowError(
            f"entry id {milliseconds[at]}-{sequence[at]} has a sequence number of more than {SEQUENCE_BITS} bits",
            where=part,
            todo="let the server give the ids (XADD with *)",
        )
    return RawBlock(
        partition=part,
        began=began,
        offsets=(milliseconds << SEQUENCE_BITS) | sequence,
        accepted_us=milliseconds * 1000,
        payloads=entries.payloads,
    )
