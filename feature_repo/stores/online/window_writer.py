"""Writing window states to Redis, a projection of the log: writes are idempotent, and the store can be rebuilt.

One row per key and flush: the states of all views of an entity are written to the entity's hash in one step, each only
if its version is higher than the stored one. The version is the number of events folded; it grows with every event and
is the same after any replay. So neither a replay nor a second writer moves a key backwards. A key expires when the
longest window of a view has passed since that view's last write; several flows write to one hash, and none shortens
the time that another one has set. A hash that contains a plain feature view without expiry does not expire.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from feature_repo.stores.online.compare_and_set import ScriptedWrites
from feature_repo.stores.online.script_calls import Calls, StateCalls
from feature_repo.stores.redis_layout.keys import key_prefix, state_field, time_field
from feature_repo.windows.arrays import Ints
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState

# KEYS: hashes. ARGV: number of views, their state fields, their time fields, seconds to live, whether the times that
# stand there stay ("1": another version of the views is kept by a flow); then per key: states, times. Bytes 9-16 of a
# state are its layout's fingerprint, 25-32 its version (little-endian int64), see windows/state.py. GT: a later expiry
# stays, and a hash that never expires counts as later. So would a new one, which is why those are told apart. An
# absolute time, because EXPIRE would be rewritten to one for the append-only file, which costs as much again.
_WRITE: Final = """
local call, sub, i8, unpack = redis.call, string.sub, struct.unpack, unpack
local n = tonumber(ARGV[1])
local at, written = 2 * n + 3, 0
local behind = ARGV[at] == '1'
local expiry = string.format('%.0f', (call('TIME')[1] + ARGV[at - 1]) * 1000)
local new = {}
for _, key in ipairs(KEYS) do
  local m, known = 0, false
  for v = 1, n do
    local state = ARGV[at + v]
    local old = call('HGET', key, ARGV[1 + v])
    known = known or old
    if not (old and sub(old, 9, 16) == sub(state, 9, 16) and i8('<i8', old, 25) >= i8('<i8', state, 25)) then
      new[m + 1], new[m + 2] = ARGV[1 + v], state
      m = m + 2
      if not (behind and call('HEXISTS', key, ARGV[1 + n + v]) == 1) then
        new[m + 1], new[m + 2] = ARGV[1 + n + v], ARGV[at + n + v]
        m = m + 2
      end
    end
  end
  if m > 0 then
    known = known or call('EXISTS', key) == 1
    call('HSET', key, unpack(new, 1, m))
    if known then call('PEXPIREAT', key, expiry, 'GT') else call('PEXPIREAT', key, expiry) end
    written = written + 1
  end
  at = at + 2 * n
end
return written
"""
WRITTEN_AT_ONCE: Final = 2_000
"""Keys packed at a time: the next are packed while the server writes these."""


class EntityProjection:
    """Writes the states of one entity's views. `client` is a redis-py client with `decode_responses` off.

    `behind` is for a backfill: a flow keeps another version of these views and is further ahead than these states, so
    the view's time in the hash, which the versions share, stays as it is.
    """

    def __init__(self, client: Any, project: str, specs: Sequence[ViewSpec], *, behind: bool = False) -> None:
        fields = [(state_field(s), time_field(s.name)) for s in specs]
        names = [state for state, _ in fields] + [time for _, time in fields]
        seconds = max(s.lifetime_us for s in specs) // 1_000_000 + 1
        head = [len(specs), *names, seconds, int(behind)]
        self._writes = ScriptedWrites(client, _WRITE, head, "window states")
        self._prefix, self._suffix = key_prefix(specs[0].join_keys), project.encode()
        self._calls = StateCalls(self._writes.sha, head, self._prefix, self._suffix)

    def write(self, index: KeyIndex, states: Sequence[ViewState], slots: Ints) -> int:
        """Write the states of `slots`; return how many keys were new or newer. Raises `OnlineStoreError`."""
        parts = np.array_split(slots, len(slots) // WRITTEN_AT_ONCE + 1)
        return self._writes.send(lambda: (self.calls(index, states, some) for some in parts))

    def calls(self, index: KeyIndex, states: Sequence[ViewState], slots: Ints) -> Calls:
        """Return the states of `slots`, ready for `send`, as bytes that can be passed between steps of a flow."""
        return self._calls.pack(index.export(), states, slots)

    def key(self, name: bytes) -> bytes:
        """Return the Redis key of a key of the index."""
        return self._prefix + name + self._suffix

    def send(self, calls: Calls) -> int:
        """Compare-and-set the states in one round trip."""
        return self._writes.send(lambda: [calls])
