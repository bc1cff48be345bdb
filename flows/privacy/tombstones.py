"""Tombstones: records of erased accounts (`flows.erase`), so that no replay, file or backfill brings them back.

One small JSON file per account in `<home>/erased`, written before anything is removed. It holds the account's
pseudonym, the time up to which its events are refused, whether the erasure was finished, and keyed hashes of the ids of
its events in streams that others refer to: a label names a payment and need not name the account. Nobody without the
key can compute the account's plain id or the id of an event from it.

    erased/<hash>.json    one account
    erased/bus.json       offsets of entries removed from the bus, so that a flow does not take them for lost

A flow reads them once, when its first events come; `flows.erase` keeps flows from running meanwhile
(`flows.process.recovery`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import RecoveryError
from feature_repo.files import sync, write_atomically
from feature_repo.privacy import Pseudonyms
from flows.blocks import Events, Int64s, Mask
from flows.streams import EventStream, referenced

ERASED: Final = "erased"
"""Reason of a dead letter whose account was erased; it has no payload."""
FOR_EVER: Final = 2**63 - 1
"""Events of any time are rejected."""
_DIGEST_BYTES: Final = 16
_BUS: Final = "bus.json"
_BEFORE_ALL: Final = -(2**63)


@dataclass(frozen=True)
class Tombstone:
    """An erased account.

    Its events with an `event_timestamp` of at most `until_us` are refused, and those that refer to its `events`.
    """

    pseudonym: str
    until_us: int
    events: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    """By stream, hashes of the ids of its events (`Digests`)."""
    finished: bool = False

    def write(self, home: Path) -> None:
        """Write durably, in place of an earlier tombstone of the account."""
        made = {
            "pseudonym": self.pseudonym,
            "until_us": self.until_us,
            "finished": self.finished,
            **{name: b"".join(sorted(self.events.get(name, ()))).hex() for name in referenced()},
        }
        _write(_file_of(home, self.pseudonym), made)

    def extended(self, until_us: int, events: Mapping[str, Iterable[bytes]]) -> Tombstone:
        """Return the tombstone of a further erasure of the account; not finished."""
        return replace(
            self,
            until_us=max(self.until_us, until_us),
            events={
                name: self.events.get(name, frozenset()).union(events.get(name, ())) for name in referenced()
            },
            finished=False,
        )


class Digests:
    """Keyed hashes of ids of events, 16 bytes each; without a key (`off`) anybody could compute them."""

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self._key = pseudonyms.derive("erased payments") if pseudonyms.keyed else b"off"

    def of(self, identity: str) -> bytes:
        """Return the hash of one id."""
        return hashlib.blake2b(identity.encode(), digest_size=_DIGEST_BYTES, key=self._key).digest()

    def among(self, column: pa.Array | pa.ChunkedArray, known: frozenset[bytes]) -> Mask:
        """Return the mask of a text column's values whose hash is known; about 1 us a row, free if none is known."""
        if not known:
            return np.zeros(len(column), bool)
        of = self.of
        return np.array([text is not None and of(text) in known for text in column.to_pylist()], bool)


class ErasedAccountFilter:
    """Rejects events of erased accounts, after their ids became pseudonyms. Costs nothing if no account was erased."""

    def __init__(self, stream: EventStream, home: Path, pseudonyms: Pseudonyms) -> None:
        self._home = home
        self._pseudonyms = pseudonyms
        self._parties = [c for c in stream.parties if c in stream.schema.names]
        self._refers_to = stream.refers_to
        self._ready = False
        self._names = pa.array([], pa.string())
        self._untils: Int64s = np.empty(0, np.int64)
        self._events: dict[str, frozenset[bytes]] = {}
        self._digests: Digests | None = None

    def __call__(self, events: Events) -> Events:
        """Return the events; those of erased accounts become dead letters without payload."""
        if not events.rows.num_rows:
            return events
        if not self._ready:
            self._read()
        if not len(self._names):
            return events
        bad = self._refused(events.rows)
        if not bad.any():
            return events
        count = int(bad.sum())
        return events.reject(bad, [ERASED] * count, ["the account was erased"] * count, withheld=True)

    def _refused(self, rows: pa.RecordBatch) -> Mask:
        times = np.asarray(rows["event_timestamp"].cast(pa.int64()).to_numpy())
        bad = np.zeros(rows.num_rows, bool)
        for column in self._parties:
            at = pc.fill_null(pc.index_in(rows[column], value_set=self._names), len(self._names))
            bad |= times <= self._untils[at.to_numpy()]
        if self._digests is not None:
            for column, other in self._refers_to.items():
                bad |= self._digests.among(rows[column], self._events[other])
        return bad

    def _read(self) -> None:
        found = read(self._home)
        _refuse_unfinished(found, self._home)
        self._names = pa.array([t.pseudonym for t in found], pa.string())
        self._untils = np.array([*(t.until_us for t in found), _BEFORE_ALL], np.int64)
        self._events = {
            name: frozenset[bytes]().union(*(t.events.get(name, ()) for t in found)) for name in referenced()
        }
        self._digests = Digests(self._pseudonyms) if any(self._events.values()) else None
        self._ready = True


def folder(home: Path) -> Path:
    """Return the folder of the tombstones."""
    return home / "erased"


def read(home: Path) -> list[Tombstone]:
    """Read all tombstones of a home, by file name."""
    found = []
    for path in sorted(folder(home).glob("*.json")):
        if path.name != _BUS:
            made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            events = {name: _digests_of(made.get(name, "")) for name in referenced()}
            found.append(Tombstone(made["pseudonym"], made["until_us"], events, made["finished"]))
    return found


def require_finished(home: Path) -> None:
    """Raise `RecoveryError` if an erasure was interrupted: the rest of the account could be folded again."""
    _refuse_unfinished(read(home), home)


def removed_from_bus(home: Path) -> dict[str, list[int]]:
    """Return the offsets of entries that erasures removed, ascending, per source partition of the bus."""
    try:
        found: dict[str, list[int]] = json.loads((folder(home) / _BUS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def note_removed_from_bus(home: Path, removed: Mapping[str, Iterable[int]]) -> None:
    """Add offsets of entries before they are removed."""
    known = removed_from_bus(home)
    for partition, offsets in removed.items():
        known[partition] = sorted({*known.get(partition, ()), *offsets})
    _write(folder(home) / _BUS, known)


def _refuse_unfinished(found: Iterable[Tombstone], home: Path) -> None:
    open_ones = sum(not tombstone.finished for tombstone in found)
    if open_ones:
        raise RecoveryError(
            f"the erasure of {open_ones} account{'s' if open_ones > 1 else ''} was interrupted",
            where=folder(home),
            todo="run python -m flows.erase --resume, or the command that was interrupted, then start the flow",
        )


def _digests_of(joined: str) -> frozenset[bytes]:
    """Split hashes written one after another in hex."""
    raw = bytes.fromhex(joined)
    return frozenset(raw[i : i + _DIGEST_BYTES] for i in range(0, len(raw), _DIGEST_BYTES))


def _file_of(home: Path, pseudonym: str) -> Path:
    return folder(home) / f"{hashlib.blake2b(pseudonym.encode(), digest_size=8).hexdigest()}.json"


def _write(path: Path, made: object) -> None:
    """Write durably, the name of the folder included."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, json.dumps(made))
    sync(path.parent.parent)
