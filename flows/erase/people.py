"""Whom an erasure is about: how its rows are told in a log, on the bus, and in bytes nobody could decode."""

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
from flows.privacy.tombstones import PARTIES, PAYMENT, Digests
from flows.streams import EventStream

_TOKEN: Final = re.compile(r"[A-Za-z0-9_.@+-]{1,256}")
_IN_DETAIL: Final = re.compile(r"'([^']*)'")
_BOUND: Final = r"[A-Za-z0-9]"


class People:
    """Some accounts, by pseudonym; `plain` are their ids as their producers write them, as far as they are known.

    `payments` are hashes of the ids of their payments, which grow while rows are looked at (`learn`): labels and charges are told by them.
    """

    def __init__(
        self,
        names: Iterable[str],
        plain: Iterable[str],
        pseudonyms: Pseudonyms,
        payments: Iterable[bytes] = (),
    ) -> None:
        self.names = frozenset(names)
        self.pseudonyms = pseudonyms
        self.payments = frozenset(payments)
        self.of: dict[str, set[bytes]] = {name: set() for name in self.names}
        """Hashes of payments by account: what each tombstone remembers. A payment between two of them is of both."""
        self._plain = frozenset(plain)
        self._digests = Digests(pseudonyms)
        self._array = pa.array(sorted(self.names), pa.string())
        either = "|".join(map(re.escape, sorted(self._plain)))
        self._written = re.compile(f"(?<!{_BOUND})(?:{either})(?!{_BOUND})") if self._plain else None

    def rows(self, rows: pa.Table | pa.RecordBatch) -> Mask:
        """Which rows, with pseudonyms already, are about them: as payer, payee, holder, or by the payment."""
        found = np.zeros(rows.num_rows, bool)
        for column in PARTIES:
            if column in rows.schema.names:
                found |= _mask(pc.is_in(rows[column], value_set=self._array))
        if PAYMENT in rows.schema.names:
            found |= self._digests.among(rows[PAYMENT], self.payments)
        return found

    def learn(self, stream: EventStream, rows: pa.Table | pa.RecordBatch) -> None:
        """Remember the payments that these rows of theirs are, or are about."""
        column = (
            PAYMENT if PAYMENT in stream.schema.names else "event_id" if stream.name == "payments" else ""
        )
        if not column or not rows.num_rows:
            return
        parties = [rows[c].to_pylist() for c in PARTIES if c in rows.schema.names]
        for i, text in enumerate(rows[column].to_pylist()):
            if text is not None:
                digest = self._digests.of(text)
                for name in {values[i] for values in parties} & self.names:
                    self.of[name].add(digest)
        self.payments = self.payments.union(*self.of.values())

    def learn_payload(self, payload: bytes) -> None:
        """Remember a payment of theirs that was not accepted: what was said about it may have been."""
        try:
            event = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return
        if isinstance(event, dict) and isinstance(event.get("event_id"), str):
            digest = self._digests.of(event["event_id"])
            named = self.names & {self._pseudonym(event.get(c)) for c in PARTIES}
            for name in named:
                self.of[name].add(digest)
            if named:
                self.payments |= {digest}

    def is_payment(self, identity: str) -> bool:
        """Whether it is the id of one of their payments."""
        return bool(self.payments) and self._digests.of(identity) in self.payments

    def in_text(self, payload: bytes) -> bool:
        """Whether an event as it came, whatever it is, names one of them or one of their payments."""
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
        """Whether a plain id that is known stands in it, not as a part of a longer one."""
        return self._written is not None and bool(self._written.search(payload.decode("utf-8", "replace")))

    def is_shown_in(self, page: bytes) -> bool:
        """Whether something we wrote, which has pseudonyms only, shows one of them or one of their payments."""
        words = set(_TOKEN.findall(page.decode("utf-8", "replace")))
        return any(word in self.names or self.is_payment(word) for word in words)

    def in_detail(self, detail: str) -> bool:
        """Whether the detail of a dead letter repeats one of their ids; it repeats none but those of events."""
        return any(self._means(word) for word in _IN_DETAIL.findall(detail))

    def _pseudonym(self, value: object) -> str:
        return self.pseudonyms.of(value, PARTY) if isinstance(value, str) else ""

    def _means(self, word: str) -> bool:
        if word in self.names or word in self._plain or self.is_payment(word):
            return True
        return self.pseudonyms.keyed and self.pseudonyms.of(word, PARTY) in self.names


class Touched:
    """Values of key columns that occur in erased rows, per stream: whose window states must be folded anew."""

    def __init__(self, columns: Mapping[str, Iterable[str]]) -> None:
        """`columns` names the key columns of each stream's views."""
        self._columns = {stream: sorted(set(names)) for stream, names in columns.items()}
        self._values: dict[str, dict[str, set[str]]] = {
            stream: {name: set() for name in names} for stream, names in self._columns.items()
        }
        self.streams: set[str] = set()

    def columns(self, stream: str) -> list[str]:
        """Key columns of the stream's views."""
        return self._columns.get(stream, [])

    def add(self, stream: EventStream, rows: pa.Table | pa.RecordBatch) -> None:
        """Rows that will be erased."""
        if not rows.num_rows:
            return
        self.streams.add(stream.name)
        for name, values in self._values.get(stream.name, {}).items():
            if name in rows.schema.names:
                values.update(pc.unique(rows[name].drop_null()).to_pylist())

    def holds(self, stream: str, key: Mapping[str, str]) -> bool:
        """Whether a key of a stream's views may have lost rows. Labels and charges without keys have those of the payment."""
        own = self._values.get(stream, {})
        theirs = self._values.get("payments", {}) if stream in {"labels", "charges"} else {}
        return stream in self.streams and all(
            value in own.get(name, ()) or value in theirs.get(name, ()) for name, value in key.items()
        )


def _mask(values: pa.Array | pa.ChunkedArray) -> Mask:
    found = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), bool)


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names of fields too; numbers as they are written."""
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
