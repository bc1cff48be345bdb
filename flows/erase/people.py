"""Find the rows of the erased accounts: in logs, on the bus, and in bytes that could not be decoded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.privacy import PARTY, Pseudonyms
from flows.blocks import Mask
from flows.privacy.tombstones import Digests
from flows.streams import STREAMS, EventStream, referenced

_TOKEN: Final = re.compile(r"[A-Za-z0-9_.@+-]{1,256}")
_IN_DETAIL: Final = re.compile(r"'([^']*)'")
_BOUND: Final = r"[A-Za-z0-9]"


class People:
    """Some accounts, by pseudonym; `plain` are their ids as their producers write them, as far as they are known.

    `events` holds, by stream, hashes of the ids of their events in streams that others refer to. `learn` adds to them
    while rows are read: a label names the payment it is about, and need not name the account.
    """

    def __init__(
        self,
        names: Iterable[str],
        plain: Iterable[str],
        pseudonyms: Pseudonyms,
        events: Mapping[str, Iterable[bytes]] | None = None,
    ) -> None:
        self.names = frozenset(names)
        self.pseudonyms = pseudonyms
        self.events = {name: frozenset((events or {}).get(name, ())) for name in referenced()}
        self.of: dict[str, dict[str, set[bytes]]] = {
            name: {stream: set() for stream in self.events} for name in self.names
        }
        """Hashes by account and stream: what each tombstone remembers.

        A payment between two of the accounts belongs to both.
        """
        self._plain = frozenset(plain)
        self._digests = Digests(pseudonyms)
        self._array = pa.array(sorted(self.names), pa.string())
        either = "|".join(map(re.escape, sorted(self._plain)))
        self._written = re.compile(f"(?<!{_BOUND})(?:{either})(?!{_BOUND})") if self._plain else None

    @property
    def known(self) -> int:
        """How many events of theirs are known by their hashes."""
        return sum(map(len, self.events.values()))

    def rows(self, stream: EventStream, rows: pa.Table | pa.RecordBatch) -> Mask:
        """Return which rows of a stream are about them.

        By a column of accounts and merchants (pseudonyms already), or by an event they refer to.
        """
        found = np.zeros(rows.num_rows, bool)
        for column in stream.parties:
            if column in rows.schema.names:
                found |= _mask(pc.is_in(rows[column], value_set=self._array))
        for column, other in stream.refers_to.items():
            if column in rows.schema.names:
                found |= self._digests.among(rows[column], self.events[other])
        return found

    def learn(self, stream: EventStream, rows: pa.Table | pa.RecordBatch) -> None:
        """Remember the events that these rows of theirs are, or refer to."""
        named = dict(stream.refers_to)
        if stream.name in self.events:
            named[stream.id_column] = stream.name
        parties = [rows[c].to_pylist() for c in stream.parties if c in rows.schema.names]
        for column, other in named.items():
            for i, text in enumerate(rows[column].to_pylist()):
                if text is not None:
                    digest = self._digests.of(text)
                    for name in {values[i] for values in parties} & self.names:
                        self.of[name][other].add(digest)
            self.events[other] = self.events[other].union(*(of[other] for of in self.of.values()))

    def learn_payload(self, stream: EventStream, payload: bytes) -> None:
        """Remember an event of theirs that was not accepted, because events that refer to it may have been.

        Only if others refer to the stream.
        """
        if stream.name not in self.events:
            return
        try:
            event = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return
        if isinstance(event, dict) and isinstance(event.get(stream.id_column), str):
            digest = self._digests.of(event[stream.id_column])
            named = self.names & {self._pseudonym(event.get(c)) for c in stream.parties}
            for name in named:
                self.of[name][stream.name].add(digest)
            if named:
                self.events[stream.name] |= {digest}

    def is_event(self, identity: str) -> bool:
        """Whether it is the id of an event of theirs, of whatever stream."""
        return any(self.events.values()) and any(
            self._digests.of(identity) in found for found in self.events.values()
        )

    def is_event_of(self, stream: str, identity: str) -> bool:
        """Whether it is the id of an event of theirs in this stream."""
        found = self.events[stream]
        return bool(found) and self._digests.of(identity) in found

    def in_text(self, payload: bytes) -> bool:
        """Whether an event as it came, whatever it is, names one of them or one of their events."""
        if self.is_written_in(payload):
            return True
        text = payload.decode("utf-8", "replace")
        try:
            words = set(_strings(orjson.loads(payload)))
        except orjson.JSONDecodeError:
            words = set()
        for whole in [*words] or [text]:
            words.update(_TOKEN.findall(whole[:1_000_000]))
        return any(self._means(word) for word in words)

    def is_written_in(self, payload: bytes) -> bool:
        """Return whether the bytes contain a known plain id as a whole word."""
        return self._written is not None and bool(self._written.search(payload.decode("utf-8", "replace")))

    def is_shown_in(self, page: bytes) -> bool:
        """Whether something we wrote, which has pseudonyms only, shows one of them or one of their events."""
        words = set(_TOKEN.findall(page.decode("utf-8", "replace")))
        return any(word in self.names or self.is_event(word) for word in words)

    def in_detail(self, detail: str) -> bool:
        """Return whether the detail of a dead letter contains one of their ids (quoted)."""
        return any(self._means(word) for word in _IN_DETAIL.findall(detail))

    def _pseudonym(self, value: object) -> str:
        return self.pseudonyms.of(value, PARTY) if isinstance(value, str) else ""

    def _means(self, word: str) -> bool:
        if word in self.names or word in self._plain or self.is_event(word):
            return True
        return self.pseudonyms.keyed and self.pseudonyms.of(word, PARTY) in self.names


class Touched:
    """Key values of erased rows, per stream and column; the window states of these keys must be folded again."""

    def __init__(self, columns: Mapping[str, Iterable[str]]) -> None:
        """Start empty; `columns` names the key columns of the views of each stream."""
        self._columns = {stream: sorted(set(names)) for stream, names in columns.items()}
        self._values: dict[str, dict[str, set[str]]] = {
            stream: {name: set() for name in names} for stream, names in self._columns.items()
        }
        self.streams: set[str] = set()

    def columns(self, stream: str) -> list[str]:
        """Return the key columns of the views of a stream."""
        return self._columns.get(stream, [])

    def add(self, stream: EventStream, rows: pa.Table | pa.RecordBatch) -> None:
        """Add the key values of rows that will be erased."""
        if not rows.num_rows:
            return
        self.streams.add(stream.name)
        for name, values in self._values.get(stream.name, {}).items():
            if name in rows.schema.names:
                values.update(pc.unique(rows[name].drop_null()).to_pylist())

    def holds(self, stream: str, key: Mapping[str, str]) -> bool:
        """Whether a key of a stream's views may have lost rows.

        An event without keys has those of the event it refers to.
        """
        others = STREAMS[stream].refers_to.values() if stream in STREAMS else ()
        places = [self._values.get(name, {}) for name in (stream, *others)]
        return stream in self.streams and all(
            any(value in values.get(name, ()) for values in places) for name, value in key.items()
        )


def _mask(values: pa.Array | pa.ChunkedArray) -> Mask:
    found = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), bool)


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, field names and numbers included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bool | None):
        return
    elif isinstance(value, int | float):
        yield str(value)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    else:
        for name, item in value.items():
            yield name
            yield from _strings(item)
