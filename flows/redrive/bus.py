"""Back onto the bus: it takes an event and the mark of its letter in one step (a script), and forgets the mark once it is filed.

So the bus holds marks for moments only, and those that an interrupted run has left are filed by the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import redis

from feature_repo.errors import OnlineStoreError
from flows.online.sink import connect
from flows.redrive.already_sent import Marks, Sent, batches
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


class Bus:
    """Where the events of one stream go. Raises `OnlineStoreError`: send the same file again later."""

    def __init__(self, stream: EventStream, settings: FlowSettings, marks: Marks) -> None:
        self._marks = marks
        self._client = connect(settings)
        self._key = f"millstream:redriving:{stream.name}"

    def recover(self) -> None:
        """File the marks an interrupted run has left."""
        with _told():
            left = {name.decode(): entry.decode() for name, entry in self._client.hgetall(self._key).items()}
            if left:
                self._marks.file(
                    {name: entry for name, entry in left.items() if name not in self._marks.names}
                )
                self._client.hdel(self._key, *left)

    def put(self, events: Sequence[Sent]) -> int:
        """Append events to their partitions; returns how many."""
        done = 0
        for batch in batches(events, BATCH, BATCH_BYTES):
            with _told():
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
        self._marks.file(went)
        if went:
            self._client.hdel(self._key, *went)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return len(went)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise OnlineStoreError(
            f"the bus did not take the events: {error}",
            where="Redis",
            todo="see that the server at REDIS_URL runs and has memory, and send the same file again: what went is not sent twice",
        ) from error
