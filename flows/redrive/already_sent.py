"""Which letters went back already: each goes once, whatever is interrupted, and however often a file is sent.

A file of the home says it, synced before a run goes on. What was sent but not filed when a run was interrupted, the next one finds at the
source and files first: see `flows.redrive.bus` and `flows.redrive.topic`.
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
"""A letter, where its event goes, and the event."""


class Marks:
    """The letters of one stream that went back, by name; one process at a time may file some (`held`)."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self._path = settings.dead_letters / f"{stream.name}.redriven.jsonl"
        self.names = {line["letter"] for line in self._lines()}

    def _lines(self) -> Iterator[dict[str, str]]:
        if self._path.exists():
            for line in self._path.read_bytes().splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # a crash cut it: its mark is on the bus still

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


def batches(events: Sequence[Sent], most: int, most_bytes: int) -> Iterator[list[Sent]]:
    """Events in pieces of about so many, and bytes."""
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
def held(settings: FlowSettings) -> Iterator[None]:
    """Keep other runs from sending letters of this home meanwhile. Raises `RecoveryError` if one does."""
    settings.dead_letters.mkdir(parents=True, exist_ok=True)
    busy = RecoveryError(
        "another flows.redrive sends letters of this home",
        where=settings.home,
        todo="wait until it has ended",
    )
    with file_lock(settings.dead_letters / ".redrive.lock", busy=busy):
        yield
