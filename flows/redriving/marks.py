"""Which letters went back already: each goes once, whatever is interrupted, and however often a file is sent.

The bus takes an event and the mark of its letter in one step (a script); then the mark goes into a file of the home, which is synced; then
the bus may forget it. Interrupted in between, the next run finds the mark on the bus and files it first. So the file alone says what
went back, and the bus holds marks for moments only.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import redis

from feature_repo.errors import OnlineStoreError, RecoveryError
from flows.connectors.staged import sync
from flows.settings import FlowSettings
from flows.streams import EventStream

BATCH: Final = 500
BATCH_BYTES: Final = 16 << 20

# KEYS: the stream of the bus, the marks. ARGV: the letter, the event.
_ONCE: Final = """
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then return before end
local entry = redis.call('XADD', KEYS[1], '*', 'v', ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], entry)
return entry
"""


class Marks:
    """The letters of one stream that went back, by name; to be held by one process at a time (`held`)."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self._path = settings.dead_letters / f"{stream.name}.redriven.jsonl"
        self._key = f"millstream:redriving:{stream.name}"
        self.names = {line["letter"] for line in self._lines()}

    def _lines(self) -> Iterator[dict[str, str]]:
        if self._path.exists():
            for line in self._path.read_bytes().splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # a crash cut it: its mark is on the bus still

    def recover(self, client: Any) -> None:
        """File the marks an interrupted run has left on the bus. Raises `OnlineStoreError`."""
        with _on_the_bus():
            left = {name.decode(): entry.decode() for name, entry in client.hgetall(self._key).items()}
            if left:
                self.file({name: entry for name, entry in left.items() if name not in self.names})
                client.hdel(self._key, *left)

    def file(self, went: dict[str, str]) -> None:
        """Remember durably where letters went."""
        if not went:
            return
        with self._path.open("ab") as file:
            if file.tell():
                file.write(b"\n")  # ends a line that a crash has cut; readers leave empty ones out
            for name, where in went.items():
                file.write(json.dumps({"letter": name, "to": where}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync(self._path.parent)
        self.names |= went.keys()

    def put(self, client: Any, events: Sequence[tuple[str, str, bytes]]) -> int:
        """Put events on the bus: (letter, partition, payload) each; returns how many. Raises `OnlineStoreError`: send again later."""
        done = 0
        for batch in _batches(events):
            with _on_the_bus():
                script = client.register_script(_ONCE)
                pipe = client.pipeline(transaction=False)
                for letter, part, payload in batch:
                    script(
                        keys=[part.replace("bus:", "millstream:", 1), self._key],
                        args=[letter, payload],
                        client=pipe,
                    )
                answers = pipe.execute(raise_on_error=False)
                went = {
                    letter: f"{part} {answer.decode()}"
                    for (letter, part, _), answer in zip(batch, answers, strict=True)
                    if not isinstance(answer, Exception)
                }
                self.file(went)
                done += len(went)
                if went:
                    client.hdel(self._key, *went)
                for answer in answers:
                    if isinstance(answer, Exception):
                        raise answer
        return done


def _batches(events: Sequence[tuple[str, str, bytes]]) -> Iterator[list[tuple[str, str, bytes]]]:
    batch: list[tuple[str, str, bytes]] = []
    size = 0
    for event in events:
        batch.append(event)
        size += len(event[2])
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def _on_the_bus() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise OnlineStoreError(
            f"the bus did not take the events: {error}",
            where="Redis",
            todo="see that the server at REDIS_URL runs and has memory, and send the same file again: what went is not sent twice",
        ) from error


@contextmanager
def held(settings: FlowSettings) -> Iterator[None]:
    """Keep other runs from sending letters of this home meanwhile. Raises `RecoveryError` if one does."""
    settings.dead_letters.mkdir(parents=True, exist_ok=True)
    with (settings.dead_letters / ".redrive.lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecoveryError(
                "another flows.redrive sends letters of this home",
                where=settings.home,
                todo="wait until it has ended",
            ) from None
        yield
