"""Prepare an empty home folder for the demo, and remove the keys of an earlier run from a given Redis server.

Only what a demo wrote is deleted: a non-empty folder without the demo's marker file is refused, and on the server of
`REDIS_URL` only the bus (`millstream:*`) and the feature keys of the Feast project are removed.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import redis

from feature_repo.errors import OnlineStoreError, SettingsError
from feature_repo.files import file_lock
from feature_repo.windows.kernels.hashing import FEAST_STRING

MARKER: Final = ".millstream-demo"
_MOST_JOIN_KEYS: Final = 16


@contextmanager
def fresh(home: Path) -> Iterator[Path]:
    """Empty the home and lock it until the block ends.

    Raises `SettingsError` if no demo wrote it, or one runs in it.
    """
    home = home.resolve()
    marker = home / MARKER
    if home.is_dir() and any(home.iterdir()) and not marker.exists():
        raise SettingsError(
            "this folder is not empty and was not written by a demo",
            where=home,
            todo="choose an empty or new folder with --home",
        )
    home.mkdir(parents=True, exist_ok=True)
    busy = SettingsError(
        "another demo runs in this home", where=home, todo="wait for it, or choose another folder with --home"
    )
    with file_lock(marker, busy=busy):
        for entry in home.iterdir():
            if entry.name == MARKER:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        yield home


def clear_server(url: str, project: str) -> int:
    """Remove the bus and the feature keys of the project from a server; return the number of keys removed.

    Raises `OnlineStoreError` if the server refuses.
    """
    gone = 0
    try:
        with redis.Redis.from_url(url, socket_timeout=10.0) as client:
            for pattern in (b"millstream:*", b"*" + project.encode()):
                batch: list[bytes] = []
                for key in cast("Iterator[bytes]", client.scan_iter(pattern, count=1000)):
                    if key.startswith(b"millstream:") or is_feature_key(key, project):
                        batch.append(key)
                    if len(batch) >= 1000:
                        gone += cast("int", client.unlink(*batch))
                        batch = []
                if batch:
                    gone += cast("int", client.unlink(*batch))
    except redis.RedisError as error:
        raise OnlineStoreError(
            f"the keys of an earlier run could not be removed: {error}",
            where=f"REDIS_URL={url}",
            todo="let this user SCAN and UNLINK, or unset REDIS_URL for an embedded server",
        ) from error
    return gone


def is_feature_key(key: bytes, project: str) -> bool:
    """Return whether a key is one of Feast's: a serialised entity key followed by the name of the project.

    >>> is_feature_key(b"somebody's key of millstream", "millstream")
    False
    """
    if len(key) < 8 or not key.endswith(project.encode()):
        return False
    join_keys, kind = struct.unpack_from("<II", key)
    return bool(0 < join_keys <= _MOST_JOIN_KEYS and kind == FEAST_STRING)
