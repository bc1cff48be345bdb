"""Publish events on the bus, each once: a script appends the event and records its dead letter in one step.

The record on the bus is deleted once the home's own record is on disk; what an interrupted run has left is moved
there by the next run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import redis

from feature_repo.errors import OnlineStoreError
from flows.online.sink import connect
from flows.redrive.already_sent import Sent, SentLetters, batches
from flows.settings import FlowSettings
from flows.streams import EventStream

BATCH: Final = 500
BATCH_BYTES: Final = 16 << 20

# KEYS: the stream of the bus, the hash of sent letters. ARGV: the letter, the event.
_ONCE: Final = """
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then return before end
local entry = redis.call('XADD', KEYS[1], '*', 'v', ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], entry)
return entry
"""


class Bus:
    """Publishes events of one stream on the bus. Methods raise `OnlineStoreError`; the same file can be sent again."""

    def __init__(self, stream: EventStream, settings: FlowSettings, sent_letters: SentLetters) -> None:
        self._sent_letters = sent_letters
        self._client = connect(settings)
        self._key = f"millstream:redriving:{stream.name}"

    def recover(self) -> None:
        """Record what an interrupted run has sent."""
        with _store_errors():
            left = {name.decode(): entry.decode() for name, entry in self._client.hgetall(self._key).items()}
            if left:
                self._sent_letters.record(
                    {name: entry for name, entry in left.items() if name not in self._sent_letters.names}
                )
                self._client.hdel(self._key, *left)

    def put(self, events: Sequence[Sent]) -> int:
        """Append events to their partitions; return their number."""
        done = 0
        for batch in batches(events, BATCH, BATCH_BYTES):
            with _store_errors():
                done += self._put(batch)
        return done

    def _put(self, batch: Sequence[Sent]) -> int:
        script = self._client.register_script(_ONCE)
        pipe = self._client.pipeline(transaction=False)
        for letter, part, payload in batch:
            script(
                keys=[part.replace("bus:", "millstream:", 1), self._key], args=[letter, payload], client=pipe
            )
        answers = pipe.execute(raise_on_error=False)
        went = {
            letter: f"{part} {answer.decode()}"
            for (letter, part, _), answer in zip(batch, answers, strict=True)
            if not isinstance(answer, Exception)
        }
        self._sent_letters.record(went)
        if went:
            self._client.hdel(self._key, *went)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return len(went)


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise OnlineStoreError(
            f"the bus did not accept the events: {error}",
            where="Redis",
            todo="check that the server at REDIS_URL runs and has memory, then send the same file again: nothing is sent twice",
        ) from error
