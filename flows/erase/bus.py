"""Erase entries of the accounts from the bus, including their bytes.

XDEL only flags an entry: its bytes stay in the node of the stream, and a snapshot (also the base of an append-only
file) contains the node. So the stream is copied without these entries, with the same ids and counters, and the copy
replaces it in one step; producers and readers are not affected, and entries that arrive meanwhile are kept. If other
consumers have groups on the stream, which a copy would not have, entries are removed by XDEL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.privacy import apply
from flows.accept.decode import Decoder
from flows.blocks import Events
from flows.erase.people import People, Touched
from flows.sources.redis_blocks import entry_id, raw_block, stream_key
from flows.streams import STREAMS

CHUNK: Final = 5_000

# KEYS: the stream, its copy. ARGV: the last id copied, the greatest id removed.
_TAKE_PLACE: Final = """
local function less(a, b)
  local am, as = string.match(a, '(%d+)-(%d+)')
  local bm, bs = string.match(b, '(%d+)-(%d+)')
  if am ~= bm then return tonumber(am) < tonumber(bm) end
  return tonumber(as) < tonumber(bs)
end
local rest = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+')
for _, entry in ipairs(rest) do redis.call('XADD', KEYS[2], entry[1], unpack(entry[2])) end
local info, raw = {}, redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #raw, 2 do info[raw[i]] = raw[i + 1] end
local gone = ARGV[2]
if less(gone, info['max-deleted-entry-id']) then gone = info['max-deleted-entry-id'] end
redis.call('XSETID', KEYS[2], info['last-generated-id'], 'ENTRIESADDED', info['entries-added'], 'MAXDELETEDID', gone)
local left = redis.call('PTTL', KEYS[1])
if left > 0 then redis.call('PEXPIRE', KEYS[2], left) end
redis.call('RENAME', KEYS[2], KEYS[1])
return #rest
"""


class Bus:
    """The streams of the bus. `client` is a redis-py client, whose errors are passed on."""

    def __init__(self, client: Any, people: People, touched: Touched) -> None:
        self._client, self._people, self._touched = client, people, touched
        self._decoders = {name: Decoder(stream) for name, stream in STREAMS.items()}
        self.newest_us = -(2**63)

    def streams(self, name: str) -> list[str]:
        """Return the existing source partitions of a stream, whatever number the settings say."""
        found = [key.decode() for key in self._client.scan_iter(f"millstream:{name}:*", count=1000)]
        return sorted(
            key.replace("millstream:", "bus:", 1)
            for key in found
            if key.rpartition(":")[2].isdigit() and self._client.type(key) == b"stream"
        )

    def survey(self, name: str, partition: str) -> list[int]:
        """Return the offsets of the entries to remove, ascending; add their payments and keys as for logged rows."""
        found: list[int] = []
        for entries in self._chunks(partition):
            found += self._theirs(name, partition, entries)
        return sorted(found)

    def was_trimmed(self, partition: str) -> bool:
        """Return whether bytes of deleted entries may still be in a node."""
        info = self._client.xinfo_stream(stream_key(partition))
        return bool(info.get("max-deleted-entry-id", b"0-0") != b"0-0")

    def has_groups(self, partition: str) -> bool:
        """Return whether other consumers have groups on the stream."""
        return bool(self._client.xinfo_stream(stream_key(partition))["groups"])

    def remove(self, partition: str, offsets: list[int]) -> None:
        """Remove entries and their bytes."""
        key = stream_key(partition)
        if self.has_groups(partition):
            for start in range(0, len(offsets), CHUNK):
                self._client.xdel(key, *map(entry_id, offsets[start : start + CHUNK]))
            return
        copy = f"millstream:erasing:{key}"
        gone = frozenset(map(entry_id, offsets))
        self._client.delete(copy)
        self._client.xgroup_create(copy, "none", mkstream=True)  # makes a stream without entries
        self._client.xgroup_destroy(copy, "none")
        last = "0-0"
        for entries in self._chunks(partition):
            with self._client.pipeline(transaction=False) as pipe:
                for identity, fields in entries:
                    if identity.decode() not in gone:
                        pipe.xadd(copy, dict(zip(fields[::2], fields[1::2], strict=True)), id=identity)
                pipe.execute()
            last = entries[-1][0].decode()
        self._client.eval(_TAKE_PLACE, 2, key, copy, last, entry_id(max(offsets)) if offsets else "0-0")

    def _chunks(self, partition: str) -> Iterator[list[Any]]:
        after = "-"
        while True:
            reply = self._client.xrange(stream_key(partition), after, "+", count=CHUNK)
            if not reply:
                return
            yield [[identity, [x for pair in fields.items() for x in pair]] for identity, fields in reply]
            after = f"({reply[-1][0].decode()}"

    def _theirs(self, name: str, partition: str, entries: list[Any]) -> list[int]:
        stream = STREAMS[name]
        block = raw_block(partition, entries)
        events: Events = self._decoders[name](block)
        rows = apply(stream.personal, events.rows, self._people.pseudonyms)
        mask = self._people.rows(stream, rows) | self._written(events)
        theirs = rows.filter(pa.array(mask))
        found: list[int] = theirs["source_offset"].to_pylist()
        if found:
            self._people.learn(stream, theirs)
            self._touched.add(stream, theirs)
            self.newest_us = max(self.newest_us, pc.max(theirs["event_timestamp"]).value)
        for letters in events.dead:
            for payload, offset in zip(
                letters["payload"].to_pylist(), letters["source_offset"].to_pylist(), strict=True
            ):
                if self._people.in_text(payload):
                    found.append(offset)
        return found

    def _written(self, events: Events) -> Any:
        """Return the mask of decoded rows whose raw bytes contain a plain id, even in a field outside the schema."""
        payloads = events.payloads(np.arange(events.rows.num_rows))
        return np.array([self._people.is_written_in(p) for p in payloads], bool)
