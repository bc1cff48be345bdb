"""A home folder of the demo's own, begun afresh, and on a given server the keys of an earlier run cleared.

Nothing is deleted that a demo did not write: a folder without the demo's mark is refused, and on a server that `REDIS_URL`
names only the bus (`millstream:*`) and the feature keys of the Feast project are removed.
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

MARK: Final = ".millstream-demo"
_MOST_JOIN_KEYS: Final = 16


@contextmanager
def fresh(home: Path) -> Iterator[Path]:
    """An empty home that is ours alone until the block ends."""
    home = home.resolve()
    mark = home / MARK
    if home.is_dir() and any(home.iterdir()) and not mark.exists():
        raise SettingsError(
            "this folder is not empty and no demo wrote it",
            where=home,
            todo="name an empty or new folder with --home",
        )
    home.mkdir(parents=True, exist_ok=True)
    busy = SettingsError(
        "another demo runs in this home", where=home, todo="wait for it, or name another with --home"
    )
    with file_lock(mark, busy=busy):
        for entry in home.iterdir():
            if entry.name == MARK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        yield home


def clear_server(url: str, project: str) -> int:
    """Remove the bus and the project's feature keys from a server; returns how many keys went."""
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
            f"the keys of an earlier run cannot be cleared: {error}",
            where=f"REDIS_URL={url}",
            todo="let this user SCAN and UNLINK, or unset REDIS_URL for an embedded server",
        ) from error
    return gone


def is_feature_key(key: bytes, project: str) -> bool:
    """Whether a key is one of Feast's: a serialised entity key followed by the project's name.

    >>> is_feature_key(b"somebody's key of millstream", "millstream")
    False
    """
    if len(key) < 8 or not key.endswith(project.encode()):
        return False
    join_keys, kind = struct.unpack_from("<II", key)
    return bool(0 < join_keys <= _MOST_JOIN_KEYS and kind == FEAST_STRING)
