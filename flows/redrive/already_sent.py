"""The record of dead letters that were already sent, so that each is sent once, even after an interruption.

It is a file of the home, flushed to disk after each batch. What an interrupted run has sent but not recorded is found
at the source and recorded by the next run: see `flows.redrive.bus` and `flows.redrive.topic`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from feature_repo.errors import RecoveryError
from feature_repo.files import file_lock, sync
from flows.settings import FlowSettings
from flows.streams import EventStream

Sent = tuple[str, str, bytes]
"""Name of the dead letter, destination of its event (partition or key), and the event."""


class SentLetters:
    """The names of the dead letters of one stream that were sent; only one process may add to them (`redrive_lock`)."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self._path = settings.dead_letters / f"{stream.name}.redriven.jsonl"
        self.names = {line["letter"] for line in self._lines()}

    def _lines(self) -> Iterator[dict[str, str]]:
        if self._path.exists():
            for line in self._path.read_bytes().splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # cut off by a crash: the letter is still recorded on the bus

    def record(self, went: dict[str, str]) -> None:
        """Record durably where letters were sent: name -> destination."""
        if not went:
            return
        with self._path.open("ab") as file:
            if file.tell():
                file.write(b"\n")  # ends a line that a crash has cut off; readers skip empty lines
            for name, where in went.items():
                file.write(json.dumps({"letter": name, "to": where}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync(self._path.parent)
        self.names |= went.keys()


def batches(events: Sequence[Sent], most: int, most_bytes: int) -> Iterator[list[Sent]]:
    """Yield events in batches of at most `most` events and about `most_bytes` bytes."""
    batch: list[Sent] = []
    size = 0
    for event in events:
        batch.append(event)
        size += len(event[2])
        if len(batch) >= most or size >= most_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def redrive_lock(settings: FlowSettings) -> Iterator[None]:
    """Lock the dead letters of this home against other runs. Raises `RecoveryError` if another one runs."""
    settings.dead_letters.mkdir(parents=True, exist_ok=True)
    busy = RecoveryError(
        "another flows.redrive is sending dead letters of this home",
        where=settings.home,
        todo="wait until it has ended",
    )
    with file_lock(settings.dead_letters / ".redrive.lock", busy=busy):
        yield
