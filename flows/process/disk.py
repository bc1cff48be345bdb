"""Convert errors of a full, read-only or failing disk to `DiskError`."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from feature_repo.errors import DiskError

_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RIGHTS: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
_SQLITE: Final = {
    "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "readonly database": errno.EROFS,
    "unable to open database file": errno.EACCES,
}
"""Words in SQLite's errors, and the error number they stand for."""


@contextlib.contextmanager
def writing(what: str, where: Path) -> Iterator[None]:
    """Convert OSError to DiskError, except FileNotFoundError. `what` and `where` are named in its message."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(what, error.strerror or str(error), error.errno, where) from error


def as_disk_error(error: BaseException, home: Path) -> DiskError | None:
    """The `DiskError` for an error raised outside `writing`, such as by Bytewax's recovery store.

    None if it is another kind of error. Looks at the causes of the error, too.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (*_ROOM, *_RIGHTS, errno.EIO):
            where = Path(str(seen.filename)) if seen.filename else home
            return _refused("a file", seen.strerror or str(seen), seen.errno, where)
        words = next((words for words in _SQLITE if words in str(seen)), "")
        if words:
            return _refused("the recovery store", words, _SQLITE[words], home / "recovery")
        seen = seen.__cause__ or seen.__context__
    return None


def _refused(what: str, why: str, number: int | None, where: Path) -> DiskError:
    repair = "check the disk"
    if number in _ROOM:
        repair = "make room on that disk"
    elif number in _RIGHTS:
        repair = "make that folder writable for this user"
    return DiskError(
        f"{what} could not be written: {why}",
        where=where,
        todo=f"{repair}, then start the flow again; nothing is lost, what was not durable is read again",
    )
