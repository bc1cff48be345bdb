"""Atomic file writes and file locks: the only place that renames, syncs and locks files.

    write_atomically(path, data)      a small file, as a whole
    replaced(path)                    a file that a library writes to a path (Parquet, NumPy)
    sync(path)                        make a file, or the names in a folder, survive a power cut

    try_lock(path), file_lock(path)   a lock file: one process at a time
    open_locked(path)                 a file that is locked itself: one process appends to it, another replaces it

A write goes to a temporary file beside the target (`.<name>.<process id>.tmp`), is synced and renamed over the target,
and the folder is synced. A reader sees the old file or the new one. A killed process leaves its temporary file;
`target_of` recognises such a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

_TEMPORARY: Final = re.compile(r"\.(.+?)(?:\.\d+)?\.tmp")
_RETRY_SECONDS: Final = 0.05


def write_atomically(path: Path, data: bytes | str, *, mode: int | None = None, durable: bool = True) -> None:
    """Write a whole file; text as UTF-8. Arguments as in `replaced`."""
    with replaced(path, mode=mode, durable=durable) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replaced(
    path: Path, *, mode: int | None = None, durable: bool = True, folder: Path | None = None
) -> Iterator[Path]:
    """Yield the path of an empty temporary file; when the block ends, rename it to `path`.

    After an error `path` is as before.

    `mode` are the permissions of the file from the start, None for those of the process's umask. `durable`: sync the
    file before and the folder after the rename, so that the file survives a power cut. `folder` is where the temporary
    file goes, if not beside the target; it must be on the same file system.
    """
    temporary = (folder or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666 if mode is None else mode)
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    try:
        yield temporary
        if durable:
            sync(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def target_of(name: str) -> str | None:
    """Name of the file that a temporary file was to become; None for the name of any other file.

    >>> target_of(".bus-0000000009.parquet.4711.tmp"), target_of("bus-0000000009.parquet")
    ('bus-0000000009.parquet', None)
    """
    found = _TEMPORARY.fullmatch(name)
    return found[1] if found else None


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(path: Path, *, wait_seconds: float = 0.0) -> int | None:
    """Lock a file for this process alone, and create it (mode 0600, folder 0700) if it is missing.

    Returns a descriptor that holds the lock until it is closed (`os.close`) or the process ends, None if another
    process still holds it after `wait_seconds`. A child process that inherits the descriptor holds the lock too.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                os.close(descriptor)
                return None
            time.sleep(_RETRY_SECONDS)
        except BaseException:
            os.close(descriptor)
            raise
        else:
            return descriptor


@contextlib.contextmanager
def file_lock(path: Path, *, busy: Exception) -> Iterator[None]:
    """Hold the lock of `try_lock` during the block. Raises `busy` if another process holds it."""
    descriptor = try_lock(path)
    if descriptor is None:
        raise busy
    try:
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process (this one included) holds the lock of `try_lock`; a missing file is not created."""
    if not path.exists():
        return False
    descriptor = try_lock(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


@contextlib.contextmanager
def open_locked(path: Path, mode: str, buffering: int = -1) -> Iterator[IO[Any]]:
    """Open a file and wait for an exclusive lock of it; opened again if another process replaced it meanwhile."""
    while True:
        with path.open(mode, buffering=buffering) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                yield file
                return
