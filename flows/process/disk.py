"""A disk that is full, read-only or failing stops a flow, with words: what it was doing, where, and that nothing is lost."""

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
"""What SQLite says, and what it means."""


@contextlib.contextmanager
def writing(what: str, where: Path) -> Iterator[None]:
    """Convert OSError to DiskError, except FileNotFoundError. `what` and `where` are named in its message."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(what, error.strerror or str(error), error.errno, where) from error


def of_others(error: BaseException, home: Path) -> DiskError | None:
    """The `DiskError` behind an error that was raised outside of `writing` (by the recovery store, which is Bytewax's own), if one is."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (*_ROOM, *_RIGHTS, errno.EIO):
            where = Path(str(seen.filename)) if seen.filename else home
            return _refused("a file", seen.strerror or str(seen), seen.errno, where)
        said = next((words for words in _SQLITE if words in str(seen)), "")
        if said:
            return _refused("the recovery store", said, _SQLITE[said], home / "recovery")
        seen = seen.__cause__ or seen.__context__
    return None


def _refused(what: str, why: str, number: int | None, where: Path) -> DiskError:
    repair = "see to the disk"
    if number in _ROOM:
        repair = "make room on that disk"
    elif number in _RIGHTS:
        repair = "make that folder writable for this user"
    return DiskError(
        f"{what} could not be written: {why}",
        where=where,
        todo=f"{repair}, then start the flow again; nothing is lost, what was not durable is read again",
    )
