"""Detect that the online store lost writes: it was emptied, restored from an older file, or an older copy took over.

The store is a projection of the log and can be written again; the detector says when. Each writer (a fold part per
entity and shard, and the writer of plain views) has a field in one Redis hash per stream,
`millstream:written:<project>:<stream>`:

    account_id:03     <server's run id>.<random> <number>

The first word is the writer's session, the second its progress. The progress number rises with everything a writer
sends; at the end of an epoch it is stored, after everything sent before it was answered. A server that went back in
time has an older number, or none. Three comparisons find a loss:

- at a start, the stored number with the one in the writer's recovery state: if it is lower or missing, the store lacks
writes; - every second, the server's run id: a restarted server may lack what it got after the last stored number; -
every second, the stored session and number: if they are missing or older, the store was emptied or set back while it
ran.

After a loss the writer begins a new session with the number -1 and writes everything again. Only when that is complete
does it store progress again, so a crash in between starts over. Progress of an earlier session that is still on its
way is not stored. Writing twice is safe: writes are compare-and-set. Numbers are milliseconds of the clock, or one
more than the one before.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from threading import Lock
from typing import Any, Final

import structlog
from redis.exceptions import NoPermissionError, NoScriptError, RedisError

from feature_repo.errors import OnlineStoreError
from flows import metrics
from flows.online.outbox import Outbox
from flows.online.retry import call_with_retry

log = structlog.get_logger(__name__)

CHECK_SECONDS: Final = 1.0
_LOG_SECONDS: Final = 10.0
_INCOMPLETE: Final = -1
"""Stored as the number while a writer writes everything again."""

# KEYS: the hash. ARGV: per field its name, its session, its new value. A field of another session stays as it is.
_STORE_PROGRESS: Final = """
for i = 1, #ARGV, 3 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  if old and string.find(old, ARGV[i + 1] .. ' ', 1, true) == 1 then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  end
end
return 1
"""
_STORE_PROGRESS_SHA: Final = hashlib.sha1(_STORE_PROGRESS.encode(), usedforsecurity=False).hexdigest()


class Loss(Enum):
    """What the store lacks of everything a writer has sent."""

    NONE = "none"
    """Nothing: there is nothing to write again."""
    POSSIBLE = "possible"
    """Perhaps the last writes before the server restarted, or the writer is new. All states are written."""
    CERTAIN = "certain"
    """Writes are missing. All states are written; until then a missing key does not mean that it had no events."""


@dataclass(frozen=True, slots=True)
class Progress:
    """All of a writer's writes up to `number` are in the store, once they have been answered."""

    hash: str
    field: str
    session: str
    number: int


@dataclass(slots=True)
class WriteSession:
    """One writer on one run of the server, from a start or a loss on."""

    hash: str
    field: str
    id: str
    """`<server's run id>.<random>`."""
    number: int
    """Progress number of what was sent last."""
    loss: Loss
    """What the store lacked when the session began."""
    stored: int = _INCOMPLETE
    """The highest number seen in the store."""

    @property
    def server(self) -> str:
        """The server's run id; empty if the user may not ask for it."""
        return self.id.partition(".")[0]

    def advance(self) -> None:
        """Raise the progress number: something more is being sent."""
        self.number = max(self.number + 1, int(time.time() * 1000))

    def progress(self) -> Progress:
        """The progress to store when everything sent so far has been answered."""
        return Progress(self.hash, self.field, self.id, self.number)


class RollbackDetector:
    """Watches the server for all writers of one stream in this process. Safe to use from several workers."""

    def __init__(self, client: Any, project: str, stream: str) -> None:
        self._client = client
        self._hash = f"millstream:written:{project}:{stream}"
        self._lock = Lock()
        self._next_check = 0.0
        self._server = ""
        self._stored: dict[str, str] = {}
        self._logged_at = 0.0
        self._warned_of_rights = False

    def start(self, field: str, number: int) -> WriteSession:
        """The session of a writer that starts. `number`: the progress in its recovery state, 0 without one.

        Waits for a server that does not answer. Raises `OnlineStoreError`.
        """
        session = call_with_retry(lambda: self._start(field, number))
        if session.loss is Loss.CERTAIN:
            self._report("it has less than this flow has written")
        return session

    def check(self, session: WriteSession) -> WriteSession | None:
        """A new session if the store may have lost writes of this one, else None. Asks the server once a second.

        Raises `OnlineStoreError`.
        """
        self._ask_server()
        with self._lock:
            server, stored = self._server, self._stored.get(session.field, "")
        if _went_back(stored, session):
            why = "it was emptied, or went back in time"
        elif server != session.server:
            why = "the server was restarted"
        else:
            session.stored = _number_of(stored)
            return None
        renewed = call_with_retry(lambda: self._renew(session))
        self._report(why)
        return renewed

    def _start(self, field: str, known: int) -> WriteSession:
        server, stored = self._read(field)
        number = _number_of(stored)
        lacking = Loss.CERTAIN if known > 0 else Loss.POSSIBLE
        loss = Loss.NONE if stored and number >= known else lacking
        return self._open(server, field, max(number, known), loss)

    def _renew(self, session: WriteSession) -> WriteSession:
        server, stored = self._read(session.field)
        loss = Loss.CERTAIN if _went_back(stored, session) else Loss.POSSIBLE
        return self._open(server, session.field, max(_number_of(stored), session.number), loss)

    def _read(self, field: str) -> tuple[str, str]:
        """The server's run id and the stored value of a field, empty if there is none."""
        try:
            return self._run_id(), (self._client.hget(self._hash, field) or b"").decode()
        except RedisError as error:
            raise _unavailable(error) from error

    def _open(self, server: str, field: str, number: int, loss: Loss) -> WriteSession:
        session = WriteSession(self._hash, field, f"{server}.{secrets.token_hex(6)}", number, loss)
        value = f"{session.id} {number if loss is Loss.NONE else _INCOMPLETE}"
        try:
            self._client.hset(self._hash, field, value)
        except RedisError as error:
            raise _unavailable(error) from error
        with self._lock:
            self._server, self._stored[field] = server, value
        return session

    def _ask_server(self) -> None:
        now = time.monotonic()
        if now < self._next_check or not self._lock.acquire(blocking=False):
            return
        try:
            self._next_check = now + CHECK_SECONDS
            stored = self._client.hgetall(self._hash)
            self._server = self._run_id()
            self._stored = {k.decode(): v.decode() for k, v in stored.items()}
        except RedisError:
            pass  # the next write reports it
        finally:
            self._lock.release()

    def _run_id(self) -> str:
        """The server's id of its present run; empty if the user may not ask."""
        try:
            return str(self._client.info("server").get("run_id", ""))
        except NoPermissionError:
            if not self._warned_of_rights:
                self._warned_of_rights = True
                log.warning(
                    "online.restarts_unseen",
                    then="after a restart of the server, its last writes may be missing online until their keys change again",
                    todo="allow the INFO command to this user",
                )
            return ""

    def _report(self, why: str) -> None:
        """Log and count a loss, once for all writers that detect it."""
        if time.monotonic() - self._logged_at > _LOG_SECONDS:
            self._logged_at = time.monotonic()
            metrics.ONLINE_LOSSES.inc()
            log.warning("online.lost_writes", why=why, then="everything is written to it again")


def store_progress(outbox: Outbox, progress: Collection[Progress], client: Any) -> bool:
    """Store progress after everything sent through the outbox was answered; return whether the server answered.

    Uses the outbox's own connection, so that the server whose run id is compared is the one that stores. Progress of a
    session with another run of the server is dropped.
    """
    try:
        server = _run_id_behind(outbox)
        arguments: list[str | int] = []
        for p in progress:
            if p.session.partition(".")[0] == server:
                arguments += [p.field, p.session, f"{p.session} {p.number}"]
        if arguments:
            command = ("EVALSHA", _STORE_PROGRESS_SHA, 1, next(iter(progress)).hash, *arguments)
            try:
                outbox.call(*command)
            except NoScriptError:
                client.script_load(_STORE_PROGRESS)
                outbox.call(*command)
    except RedisError:
        return False
    return True


def _run_id_behind(outbox: Outbox) -> str:
    try:
        found = re.search(rb"^run_id:(\w+)", outbox.call("INFO", "server"), re.MULTILINE)
    except NoPermissionError:
        return ""
    return found[1].decode() if found else ""


def _went_back(stored: str, session: WriteSession) -> bool:
    """Whether the stored value is of another session, or older than one seen before."""
    return stored.partition(" ")[0] != session.id or _number_of(stored) < session.stored


def _number_of(stored: str) -> int:
    return int(stored.partition(" ")[2] or _INCOMPLETE)


def _unavailable(error: RedisError) -> OnlineStoreError:
    return OnlineStoreError(
        f"the progress stored in the online store could not be read or written: {error}",
        where="Redis",
        todo="check that the server at REDIS_URL runs and has memory",
    )
