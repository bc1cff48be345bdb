"""Writing window states into Redis. The online store is a projection of the fold: idempotent to write, rebuildable at any time.

One row per key and flush: the states of all views of an entity go into the entity's hash in one step, each only if it is newer than
what stands there (its version, the number of events folded, grows with every event and is the same after any replay). So neither a
replay nor a second writer moves a key backwards. A key expires when the longest window of a view has passed since that view's last
write: several flows write into one hash, and none takes time from another's views. A hash in which a plain feature view lives, which
never expires, does not expire.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from feature_repo.stores.keys import encode_timestamp, key_prefix, state_field, time_field
from feature_repo.stores.scripted import Row, ScriptedWrites
from feature_repo.windows.columns import Ints
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState

# KEYS: hashes. ARGV: number of views, their state fields, their time fields, seconds to live, whether the times that stand there
# stay ("1": another version of the views is kept by a flow); then per key: states, times.
# Bytes 9-16 of a state are its layout's fingerprint, 25-32 its version (little-endian int64), see windows/state.py.
_WRITE: Final = """
local n, at, written = tonumber(ARGV[1]), 2 * tonumber(ARGV[1]) + 3, 0
local seconds, behind = tonumber(ARGV[at - 1]), ARGV[at] == '1'
for i, key in ipairs(KEYS) do
  local left = redis.call('TTL', key)
  local new = {}
  for v = 1, n do
    local state = ARGV[at + v]
    local old = redis.call('HGET', key, ARGV[1 + v])
    if not (old and string.sub(old, 9, 16) == string.sub(state, 9, 16)
            and struct.unpack('<i8', old, 25) >= struct.unpack('<i8', state, 25)) then
      new[#new + 1] = ARGV[1 + v]
      new[#new + 1] = state
      if not (behind and redis.call('HEXISTS', key, ARGV[1 + n + v]) == 1) then
        new[#new + 1] = ARGV[1 + n + v]
        new[#new + 1] = ARGV[at + n + v]
      end
    end
  end
  if #new > 0 then
    redis.call('HSET', key, unpack(new))
    if left ~= -1 and left < seconds then redis.call('EXPIRE', key, seconds) end
    written = written + 1
  end
  at = at + 2 * n
end
return written
"""


class EntityProjection:
    """Writes the states of one entity's views. `client` is a redis-py client with `decode_responses` off.

    `behind`: a flow keeps another version of these views and is further than the states written here (a backfill): a view's time in
    the hash, which its versions share, stays as it is.
    """

    def __init__(self, client: Any, project: str, specs: Sequence[ViewSpec], *, behind: bool = False) -> None:
        self._prefix = key_prefix(specs[0].join_keys)
        self._suffix = project.encode()
        self._specs = tuple(specs)
        names = [state_field(s) for s in specs] + [time_field(s.name) for s in specs]
        seconds = max(s.lifetime_us for s in specs) // 1_000_000 + 1
        head = [len(specs), *names, seconds, int(behind)]
        self._writes = ScriptedWrites(client, _WRITE, head, "window states")

    def write(self, index: KeyIndex, states: Sequence[ViewState], slots: Ints) -> int:
        """Write the states of `slots`; returns how many keys were new or newer. Raises `OnlineStoreError`."""
        return self.send(self.rows(index, states, slots))

    def rows(self, index: KeyIndex, states: Sequence[ViewState], slots: Ints) -> list[Row]:
        """(key, arguments) per slot, ready for `send`: bytes only, so they may travel between steps of a flow."""
        packed = []
        for state in states:
            blob, offsets = state.pack(slots)
            packed.append((memoryview(blob.tobytes()), offsets.tolist(), state.newest(slots).tolist()))
        rows = []
        for i, slot in enumerate(slots.tolist()):
            arguments: list[Any] = [bytes(blob[o[i] : o[i + 1]]) for blob, o, _ in packed]
            arguments += [encode_timestamp(times[i]) for _, _, times in packed]
            rows.append((self._prefix + index.name(slot) + self._suffix, arguments))
        return rows

    def send(self, rows: Sequence[Row]) -> int:
        """Compare-and-set the rows, one pipelined round trip for all of them."""
        return self._writes.send(rows)
