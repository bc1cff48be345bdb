"""Noticing that the online store lost writes: a server restarted from an older file, failed over to an older copy, or was emptied.

The store is a projection of the log and can be written again; somebody has to notice that it must be. So each writing part (a fold part
per entity and shard, the writer of plain views) has a field in a small Redis hash per stream, `millstream:written:<project>:<stream>`:

    account_id:03     <server's run id>.<random>  <number>

The number goes up with what a part sends and is written at the end of an epoch, after everything sent before it. A server that went
back in time has an older one. Three things are compared with it:

- at a start, the number in the part's own recovery state: where the store's is lower or gone, it lacks writes;
- every second, the server's run id: a server that was restarted may have lost what came after the last number, so all is written again;
- every second, the field itself: where it is gone or went back, the store was emptied under a server that kept running.

Writing again is idempotent (compare-and-set on versions). Until it is complete the part's number is withheld, so a crash in between
begins it anew. Numbers are milliseconds of the clock at the time of sending, or more by one than the one before.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import structlog
from redis.exceptions import NoPermissionError, NoScriptError, RedisError

from feature_repo.errors import OnlineStoreError
from flows import metrics
from flows.online.outbox import Outbox
from flows.online.retry import send_patiently

log = structlog.get_logger(__name__)

CHECK_SECONDS: Final = 1.0
_REPAIRING: Final = -1
"""Instead of a number while a part writes everything again."""

# KEYS: the hash. ARGV: per field its name, the first word it must have, its new value. A field of another first word stays as it is.
_ADVANCE: Final = """
for i = 1, #ARGV, 3 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  if old and string.find(old, ARGV[i + 1] .. ' ', 1, true) == 1 then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  end
end
return 1
"""
_ADVANCE_SHA: Final = hashlib.sha1(_ADVANCE.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Mark:
    """What a part may say of itself when all it sent has been answered for: everything up to `number` is in the store."""

    hash: str
    field: str
    lineage: str
    number: int


@dataclass(slots=True)
class Standing:
    """A part and the store it writes to. `lineage`: since when, on which server; `number`: the newest thing sent."""

    field: str
    lineage: str
    number: int
    whole: bool
    """Whether everything up to `number` is in the store, or on its way. Else all states have to be written."""
    gone: bool = False
    """Whether the store is known to lack writes: more than perhaps the last moments before a restart."""
    empty: bool = False
    """Whether it knows nothing of this part: it was emptied, as a rule."""
    seen: int = _REPAIRING
    """The highest number found in the store."""

    def count(self) -> None:
        """Something more is being sent."""
        self.number = max(self.number + 1, int(time.time() * 1000))

    def mark(self, key: str) -> Mark:
        """To be written once everything up to here was answered for."""
        return Mark(key, self.field, self.lineage, self.number)


class StoreWatch:
    """Watches the server for all parts of one stream in this process; safe to use from several workers."""

    def __init__(self, client: Any, project: str, stream: str) -> None:
        self._client = client
        self.hash = f"millstream:written:{project}:{stream}"
        self._lock = Lock()
        self._due = 0.0
        self._server = ""
        self._found: dict[str, str] = {}
        self._told = 0.0
        self._blind = False

    def begin(self, field: str, known: int) -> Standing:
        """A part starts; `known`: the number of its recovery state, 0 without one. Waits for a server that is away."""
        made: list[Standing] = []
        send_patiently(
            lambda before: made.append(self._begin(before)), Standing(field, "", known, whole=True)
        )
        if made[-1].gone:
            self._tell("it has less than this flow has written")
        return made[-1]

    def begin_anew(self, standing: Standing, why: str) -> Standing:
        """A part begins to write everything again."""
        made: list[Standing] = []
        send_patiently(lambda before: made.append(self._begin(before)), standing)
        self._tell(why)
        return made[-1]

    def trouble(self, standing: Standing) -> str:
        """Why everything has to be written again; empty when nothing speaks for it. Asks the server once a second."""
        self._look()
        with self._lock:
            server, found = self._server, self._found.get(standing.field, "")
        if found.partition(" ")[0] != standing.lineage or _number_in(found) < standing.seen:
            return "it was emptied, or went back in time"
        standing.seen = _number_in(found)
        if server != standing.lineage.partition(".")[0]:
            return "the server was restarted"
        return ""

    def _begin(self, before: Standing) -> Standing:
        """Takes a part up where its recovery state stands; or, where a lineage has come to its end, begins another."""
        try:
            server = self._run_id()
            stored = (self._client.hget(self.hash, before.field) or b"").decode()
            there = _number_in(stored)
            if before.lineage:
                whole = False
                gone = stored.partition(" ")[0] != before.lineage or there < before.seen
            else:
                whole = bool(stored) and there >= before.number
                gone = not whole and before.number > 0
            number = max(there, before.number)
            lineage = f"{server}.{secrets.token_hex(6)}"
            value = f"{lineage} {number if whole else _REPAIRING}"
            self._client.hset(self.hash, before.field, value)
        except RedisError as error:
            raise OnlineStoreError(
                f"what the online store has could not be asked: {error}",
                where="Redis",
                todo="see that the server at REDIS_URL runs and has memory",
            ) from error
        with self._lock:
            self._server, self._found[before.field] = server, value
        return Standing(before.field, lineage, number, whole, gone, empty=not stored)

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._due or not self._lock.acquire(blocking=False):
            return
        try:
            self._due = now + CHECK_SECONDS
            found = self._client.hgetall(self.hash)
            self._server = self._run_id()
            self._found = {k.decode(): v.decode() for k, v in found.items()}
        except RedisError:
            pass  # the writers will say so
        finally:
            self._lock.release()

    def _run_id(self) -> str:
        """The server's own name of this run of it; empty where the user may not ask."""
        try:
            return str(self._client.info("server").get("run_id", ""))
        except NoPermissionError:
            if not self._blind:
                self._blind = True
                log.warning(
                    "online.restarts_unseen",
                    then="the last moments before a restart of the server may be missing on line until their keys change again",
                    todo="let this user INFO",
                )
            return ""

    def _tell(self, why: str) -> None:
        """Once for all parts that notice the same."""
        if time.monotonic() - self._told > 10 * CHECK_SECONDS:
            self._told = time.monotonic()
            metrics.ONLINE_LOSSES.inc()
            log.warning("online.lost_writes", why=why, then="everything is written to it again")


def write_marks(outbox: Outbox, marks: dict[str, Mark], client: Any) -> bool:
    """Write marks after everything sent through an outbox was answered for; whether the server took note.

    On the connection itself: the server that answers for its run id is the one that writes. A mark made for another one is dropped.
    """
    try:
        server = _server_of(outbox)
        arguments: list[str | int] = []
        for mark in marks.values():
            if mark.lineage.partition(".")[0] == server:
                arguments += [mark.field, mark.lineage, f"{mark.lineage} {mark.number}"]
        if arguments:
            key = next(iter(marks.values())).hash
            try:
                outbox.call("EVALSHA", _ADVANCE_SHA, 1, key, *arguments)
            except NoScriptError:
                client.script_load(_ADVANCE)
                outbox.call("EVALSHA", _ADVANCE_SHA, 1, key, *arguments)
    except RedisError:
        return False
    return True


def _server_of(outbox: Outbox) -> str:
    try:
        found = re.search(rb"^run_id:(\w+)", outbox.call("INFO", "server"), re.MULTILINE)
    except NoPermissionError:
        return ""
    return found[1].decode() if found else ""


def _number_in(value: str) -> int:
    return int(value.partition(" ")[2] or _REPAIRING)
