"""Erase accounts from the online store: delete their hashes, and remove states that they share with others.

Every key of the project is checked once. A key that contains one of the accounts (alone, or in a pair) or one of
their payments is deleted. From other keys with rows of the accounts, such as those of a merchant, the window states
are removed: the flow writes them from the log at its next start, without these rows. (They have to be removed,
because a state with fewer events has a lower version.)
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Any, Final

import orjson

from feature_repo.errors import OnlineStoreError
from feature_repo.stores.applied_views import AppliedViews
from feature_repo.stores.online.plain_writer import projected_key
from feature_repo.stores.reader.pending import list_prefix
from feature_repo.stores.redis_layout.keys import time_field
from feature_repo.windows.kernels.hashing import FEAST_STRING
from flows.erase.people import People, Touched
from flows.streams import STREAMS, referenced

_U32: Final = struct.Struct("<I")
_MOST_JOIN_KEYS: Final = 16
_AT_ONCE: Final = 1_000
_REWRITE_SECONDS: Final = 1_800.0
_STATE: Final = b"_state:"


class OnlineStore:
    """The hashes of one Feast project. `client` is a redis-py client, whose errors are passed on."""

    def __init__(self, client: Any, views: AppliedViews, people: People, touched: Touched) -> None:
        self._client, self._views, self._people, self._touched = client, views, people, touched
        self._project = views.project.encode()
        self._named = {STREAMS[name].id_column: name for name in referenced()}
        """Join keys that name an event of a stream, and that stream."""
        for stream in STREAMS.values():
            self._named.update(stream.refers_to)
        self._stream_of = {
            spec.name: stream
            for stream in sorted({*views.streams, *views.earlier})
            for spec in views.kept(stream)
        }

    def survey(self) -> tuple[list[bytes], list[bytes]]:
        """Return the keys to delete, and the keys whose states may have to be removed."""
        gone, anew = [], []
        for key, values in self._keys():
            if not self._people.names.isdisjoint(values.values()) or any(
                name in self._named and self._people.is_event_of(self._named[name], value)
                for name, value in values.items()
            ):
                gone.append(key)
            elif any(self._touched.holds(stream, values) for stream in self._touched.streams):
                anew.append(key)
        return gone, anew

    def delete(self, keys: list[bytes]) -> None:
        """Delete hashes, and the payments of the accounts in pending lists."""
        for start in range(0, len(keys), _AT_ONCE):
            self._client.delete(*keys[start : start + _AT_ONCE])
        prefix = list_prefix(self._views.project).encode()
        for key in self._client.scan_iter(prefix + b"*", count=_AT_ONCE):
            theirs = [
                member
                for member in self._client.zrange(key, 0, -1)
                if not self._people.names.isdisjoint(orjson.loads(member)["k"].values())
            ]
            if theirs:
                self._client.zrem(key, *theirs)

    def forget_states(self, keys: list[bytes]) -> int:
        """Remove states and plain rows that contain rows of the accounts; return the number of keys changed."""
        changed = 0
        plain: set[str] = set()
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            with self._client.pipeline(transaction=False) as pipe:
                for key in part:
                    pipe.hkeys(key)
                held = pipe.execute()
            with self._client.pipeline(transaction=False) as pipe:
                for key, fields in zip(part, held, strict=True):
                    values = parse_key(key, self._project) or {}
                    doomed = self._states(values, fields) | self._plain(values, fields, plain)
                    if doomed:
                        changed += 1
                        pipe.hdel(key, *sorted(doomed))
                pipe.execute()
        if plain:
            self._client.hdel(projected_key(self._views.project), *sorted(plain))
        return changed

    def _states(self, values: dict[str, str], fields: list[bytes]) -> set[bytes]:
        doomed: set[bytes] = set()
        for field in fields:
            if field.startswith(_STATE):
                view = field[len(_STATE) :].rpartition(b":")[0].decode()
                stream = self._stream_of.get(view)
                if stream is None or self._touched.holds(stream, values):
                    doomed |= {field, time_field(view)}
        return doomed

    def _plain(self, values: dict[str, str], fields: list[bytes], written: set[str]) -> set[bytes]:
        """Return the fields of plain views whose stream loses rows of this key.

        Add the names of these views to `written`.
        """
        doomed: set[bytes] = set()
        for stream, specs in self._views.plain.items():
            for spec in specs:
                if tuple(sorted(values)) != spec.join_keys or time_field(spec.name) not in fields:
                    continue
                columns = dict(zip(spec.key_columns, (values[name] for name in spec.join_keys), strict=True))
                if self._touched.holds(stream, columns):
                    doomed |= {time_field(spec.name), *(bytes.fromhex(h) for _, _, h in spec.features)}
                    written.add(spec.name)
        return doomed

    def _keys(self) -> Iterator[tuple[bytes, dict[str, str]]]:
        for key in self._client.scan_iter(b"*" + self._project, count=_AT_ONCE):
            values = parse_key(key, self._project)
            if values is not None:
                yield key, values


def parse_key(key: bytes, project: bytes) -> dict[str, str] | None:
    """Return join keys and values of one of Feast's keys, None for any other key.

    >>> from feature_repo.stores.redis_layout.keys import key_prefix, key_values
    >>> parse_key(key_prefix(["device_id", "account_id"]) + key_values(["a", "d"]) + b"p", b"p")
    {'account_id': 'a', 'device_id': 'd'}
    """
    try:
        (count,) = _U32.unpack_from(key)
        if not 0 < count <= _MOST_JOIN_KEYS:
            return None
        at, texts = 4, []
        for _ in range(2 * count):
            kind, length = struct.unpack_from("<II", key, at)
            if kind != FEAST_STRING or at + 8 + length > len(key):
                return None
            texts.append(key[at + 8 : at + 8 + length].decode())
            at += 8 + length
    except (struct.error, UnicodeDecodeError):
        return None
    return dict(zip(texts[:count], texts[count:], strict=True)) if key[at:] == project else None


def rewrite_append_only_file(client: Any) -> bool:
    """Make the server rewrite its append-only file; return False if it has none. Raises `OnlineStoreError`."""
    from redis.exceptions import ResponseError

    if not client.info("persistence").get("aof_enabled"):
        return False
    _wait(client)  # a rewrite that began earlier may still contain what was removed
    try:
        client.bgrewriteaof()
    except ResponseError as error:
        raise OnlineStoreError(
            f"the server does not rewrite its append-only file: {error}",
            where="Redis",
            todo="allow this user BGREWRITEAOF, or run it yourself; until then the file on disk contains the erased data",
        ) from error
    _wait(client)
    if client.info("persistence")["aof_last_bgrewrite_status"] != "ok":
        raise OnlineStoreError(
            "the server could not rewrite its append-only file",
            where="Redis",
            todo="read its log, free disk space, then run this again",
        )
    return True


def _wait(client: Any) -> None:
    give_up = time.monotonic() + _REWRITE_SECONDS
    while time.monotonic() < give_up:
        state = client.info("persistence")
        if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
            return
        time.sleep(0.1)
    raise OnlineStoreError(
        "the server has not rewritten its append-only file within half an hour",
        where="Redis",
        todo="check the server, then run this again",
    )
