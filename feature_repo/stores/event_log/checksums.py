"""Checksums of log files: a flipped bit raises an error instead of changing a feature.

Parquet detects a truncated file and most other damage, but not a flipped bit inside a compressed column. So every
writer of a log file adds checksums: the footer contains `millstream.crc32`, eight hex digits of the CRC-32 (as in zip
and PNG) of all bytes before the footer, and eight of the footer itself, computed with these last eight as zeros. To
check a footer, the footer is read; to check rows, the whole file is read, once per process. That costs half a second
of CPU per gigabyte. Files from other writers have no checksum and are accepted.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.errors import LogError

CRC_KEY: Final = b"millstream.crc32"
UNSEALED: Final = b"-" * 16
"""Value of `CRC_KEY` in the schema's metadata before `seal` is called, and in a copy made with other tools."""
_FIELD: Final = CRC_KEY + b"\x18\x10"
"""The key in a footer, then Thrift's compact header of a value of sixteen bytes (parquet.thrift, `KeyValue`)."""
_END: Final = 8
"""Bytes of the footer's length and the magic number."""
_CHUNK: Final = 1 << 20
_Look = tuple[int, int, int]

_lock: Final = Lock()
_checked: Final[dict[Path, tuple[_Look, bool]]] = {}


def seal(path: Path) -> None:
    """Write the checksums into a file that was written with `UNSEALED`."""
    with path.open("r+b") as file:
        start, footer = _footer(file, path)
        at = footer.find(_FIELD) + len(_FIELD)
        sealed = b"%08x" % _crc(file, start) + b"0" * 8
        footer = footer[:at] + sealed + footer[at + 16 :]
        file.seek(start + at)
        file.write(sealed[:8] + b"%08x" % zlib.crc32(footer))


def check(files: Iterable[Path]) -> None:
    """Check that the bytes of files are those that were written.

    Raises `LogError` that names the first damaged file, and `FileNotFoundError`.
    """
    for path in files:
        _check(path, whole=True)


def check_footer(path: Path) -> None:
    """Check the footer only, which needs little reading. Raises as `check`."""
    _check(path, whole=False)


def _check(path: Path, *, whole: bool) -> None:
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        look = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        with _lock:
            known = _checked.get(path)
        if known is not None and known[0] == look and known[1] >= whole:
            return
        start, footer = _footer(file, path)
        at = footer.find(_FIELD) + len(_FIELD)
        said = footer[at : at + 16]
        if at < len(_FIELD):
            _require_foreign(path)
        elif said != UNSEALED:
            zeroed = footer[: at + 8] + b"0" * 8 + footer[at + 16 :]
            if said[8:] != b"%08x" % zlib.crc32(zeroed):
                raise _damaged(path, "its footer is not the one that was written")
            if whole and said[:8] != b"%08x" % _crc(file, start):
                raise _damaged(path, "its rows are not those that were written")
    with _lock:
        _checked[path] = look, whole


def _require_foreign(path: Path) -> None:
    """Raise `LogError` if a file without checksums had them before.

    The schema in its footer, which is encoded, contains the key as well.
    """
    try:
        footer = pq.read_metadata(path)
        notes = {**(footer.metadata or {}), **(footer.schema.to_arrow_schema().metadata or {})}
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, f"its footer cannot be read: {error}") from error
    if CRC_KEY in notes:
        raise _damaged(path, "its footer is not the one that was written")


def _footer(file: BinaryIO, path: Path) -> tuple[int, bytes]:
    """Return where the footer begins, and its bytes including its length and the magic number."""
    size = file.seek(0, os.SEEK_END)
    if size < 4 + _END:
        raise _damaged(path, f"it has {size} bytes")
    file.seek(size - _END)
    end = file.read(_END)
    start = size - _END - int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or start < 4:
        raise _damaged(path, "it does not end as a Parquet file does: it was cut, or bytes have changed")
    file.seek(start)
    return start, file.read(size - start)


def _crc(file: BinaryIO, size: int) -> int:
    """Return the CRC-32 of the first bytes of a file."""
    file.seek(0)
    crc = 0
    while size:
        some = file.read(min(_CHUNK, size))
        if not some:
            break
        crc = zlib.crc32(some, crc)
        size -= len(some)
    return crc


def _damaged(path: Path, why: str) -> LogError:
    return LogError(
        f"a file is damaged: {why}",
        where=path,
        todo="restore this file from a backup; the others are not concerned",
    )
