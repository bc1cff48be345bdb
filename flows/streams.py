"""The declared streams as flows see them: the declarations (`feature_repo/streams`) and the bus's partitioning."""

from __future__ import annotations

from zlib import crc32

from feature_repo.streams import STREAMS, EventStream, referenced

__all__ = ["STREAMS", "EventStream", "partition_of", "referenced"]


def partition_of(key: str, partitions: int) -> int:
    """Return the number of the bus partition that holds all events of a key, so that their order survives."""
    return crc32(key.encode()) % partitions
