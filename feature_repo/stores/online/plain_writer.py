"""Plain feature views over a log, online: the newest row per key in Redis, with the bytes that Feast's store writes.

The newest row has the greatest (`event_timestamp`, `created_timestamp`); of equal ones, the one that arrived last.
Redis can compare event times only, because Feast stores no other time: an older row never replaces a newer one, and a
row with an equal time does. A stream has one writer, and its rows arrive in the order of acceptance, so a replay ends
with the same value. (Feast's `push` ignores rows with equal times, which would lose corrections.) Rows with equal
event times that arrive in another order (a history imported after the live flow began) are stored as written last,
until the next catch-up reads the log.

A key lives as long as the longest-lived view in its hash: for ever if one has no `ttl`, else at least `ttl` after its
last write. A deleted row is stored as nulls. A row without a key is skipped.

No Feast import: definitions come from `<home>/views.json`, bytes from `redis_layout.keys`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import DefinitionError
from feature_repo.stores.applied_views import PlainSpec
from feature_repo.stores.online.compare_and_set import ScriptedWrites
from feature_repo.stores.online.script_calls import Row, row_calls
from feature_repo.stores.redis_layout.keys import (
    encode_timestamp,
    encode_value,
    key_prefix,
    key_values,
    time_field,
)

STORED_TIME: Final = """
local function us(bytes)
  local field, shift, value, seconds, nanos = nil, 1, 0, 0, 0
  for i = 1, #bytes do
    local byte = string.byte(bytes, i)
    if field == nil then field, shift, value = byte, 1, 0
    else
      value = value + (byte % 128) * shift
      shift = shift * 128
      if byte < 128 then
        if field == 8 then seconds = value else nanos = value end
        field = nil
      end
    end
  end
  if seconds >= 9223372036854775808 then seconds = seconds - 18446744073709551616 end
  return seconds * 1000000 + math.floor(nanos / 1000)
end
"""
"""Lua: `us(bytes)`, the microseconds of a protobuf Timestamp."""

# KEYS: hashes. ARGV: time field, seconds to live (0: for ever), number of fields, fields; then per key: us, time bytes,
# values.
_WRITE: Final = (
    STORED_TIME
    + """
local seconds, n, written = tonumber(ARGV[2]), tonumber(ARGV[3]), 0
local at = 3 + n
for _, key in ipairs(KEYS) do
  local old = redis.call('HGET', key, ARGV[1])
  if not old or old == ARGV[at + 2] or us(old) <= tonumber(ARGV[at + 1]) then
    local left = redis.call('TTL', key)
    local new = {ARGV[1], ARGV[at + 2]}
    for i = 1, n do
      new[#new + 1] = ARGV[3 + i]
      new[#new + 1] = ARGV[at + 2 + i]
    end
    redis.call('HSET', key, unpack(new))
    if seconds == 0 then
      if left >= 0 then redis.call('PERSIST', key) end
    elseif left ~= -1 and left < seconds then
      redis.call('EXPIRE', key, seconds)
    end
    written = written + 1
  end
  at = at + 2 + n
end
return written
"""
)

_TYPES: Final = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "float": pa.float32(),
    "bool": pa.bool_(),
    "unix_timestamp": pa.timestamp("us", "UTC"),
}


def projected_key(project: str) -> str:
    """Redis hash of the views that were brought up to date from the log: view -> "<stream> <fingerprint>"."""
    return f"millstream:projected:{project}"


class PlainProjection:
    """Writes one view. `client` is a redis-py client with `decode_responses` off, `schema` that of the view's log.

    Raises `DefinitionError` if the log has no such column, or one of another type.
    """

    def __init__(self, client: Any, project: str, spec: PlainSpec, schema: pa.Schema) -> None:
        self.spec = spec
        self._prefix = key_prefix(spec.join_keys)
        self._suffix = project.encode()
        self._columns = [(column, kind) for column, kind, _ in spec.features]
        fields = [bytes.fromhex(field) for _, _, field in spec.features]
        seconds = -(-spec.ttl_us // 1_000_000)
        head = [time_field(spec.name), seconds, len(fields), *fields]
        self._writes = ScriptedWrites(client, _WRITE, head, f"rows of view {spec.name!r}")
        for column, kind in [*((c, "string") for c in spec.key_columns), *self._columns]:
            if column not in schema.names or not _fits(schema.field(column).type, _TYPES[kind]):
                held = f"{schema.field(column).type}" if column in schema.names else "not there"
                msg = f"view {spec.name!r} wants column {column!r} as {kind}; in its log it is {held}"
                raise DefinitionError(
                    msg, todo="correct the view's schema or its source's field_mapping, then `feast apply`"
                )

    @property
    def columns(self) -> list[str]:
        """The log's columns that a row is made of."""
        names = [
            *self.spec.key_columns,
            "event_timestamp",
            "created_timestamp",
            *(c for c, _ in self._columns),
        ]
        return list(dict.fromkeys(names))

    def newest(self, rows: pa.Table) -> pa.Table:
        """Return the newest row of each key; rows are given in the order of arrival."""
        for column in self.spec.key_columns:
            if rows[column].null_count:
                rows = rows.filter(pc.is_valid(rows[column]))
        if rows.num_rows < 2:
            return rows
        codes = np.zeros(rows.num_rows, np.int64)
        for column in self.spec.key_columns:
            encoded = rows[column].combine_chunks().dictionary_encode()
            codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy()
            codes = np.unique(codes, return_inverse=True)[1]
        order = np.lexsort((_us(rows, "created_timestamp"), _us(rows, "event_timestamp")))
        last = np.empty(int(codes.max()) + 1, np.int64)
        last[codes[order]] = order  # of equal codes, the last assignment stays
        return rows.take(pa.array(np.sort(last)))

    def rows(self, rows: pa.Table) -> list[Row]:
        """Return (key, [time in microseconds, its bytes, values ...]) of the newest row per key, for `send`."""
        newest = self.newest(rows)
        keys = zip(*(newest[column].to_pylist() for column in self.spec.key_columns), strict=True)
        values = [_encoded(newest[column], kind) for column, kind in self._columns]
        made: list[Row] = []
        for i, (key, us) in enumerate(zip(keys, _us(newest, "event_timestamp").tolist(), strict=True)):
            name = self._prefix + key_values(key) + self._suffix
            made.append((name, [us, encode_timestamp(us), *(column[i] for column in values)]))
        return made

    def send(self, rows: Sequence[Row]) -> int:
        """Compare-and-set the rows in one pipelined round trip; return how many were new, newer or equally new."""
        return self._writes.send(lambda: [row_calls(self._writes.sha, self._writes.head, rows)])


def _encoded(column: pa.ChunkedArray, kind: str) -> list[bytes]:
    """Return a column as the bytes of `Value` messages."""
    values = column.cast(_TYPES[kind]).combine_chunks()
    if kind == "unix_timestamp":
        values = pc.floor_temporal(values, unit="second").cast(pa.timestamp("s", "UTC")).cast(pa.int64())
    encoded = values.dictionary_encode()
    known = [encode_value(value, kind) for value in encoded.dictionary.to_pylist()]
    return [b"" if i is None else known[i] for i in encoded.indices.to_pylist()]


def _us(rows: pa.Table, column: str) -> npt.NDArray[np.int64]:
    return np.asarray(rows[column].cast(pa.int64()).to_numpy())


def _fits(held: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column can be a feature of a type without changing its meaning."""
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(held))
    return bool(held == wanted or (pa.types.is_integer(held) and pa.types.is_integer(wanted)))
