"""Search for texts in the files of a home, inside compressed files, and in all keys and values of a server."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis


def spellings(text: str) -> set[bytes]:
    """The bytes that a text can be written as: plain, JSON, percent and Python escapes, UTF-16, hex, base64 at any
    alignment.
    """
    plain = text.encode()
    forms = {
        plain,
        json.dumps(text)[1:-1].encode(),
        quote(text).encode(),
        text.encode("unicode_escape"),
        text.encode("utf-16-le"),
        text.encode("utf-16-be"),
        plain.hex().encode(),
    }
    for shift in range(
        3
    ):  # characters that other bytes of the same group of three have a part in are left out
        whole = base64.b64encode(b"\0" * shift + plain).rstrip(b"=")
        forms.add(whole[(0, 2, 3)[shift] : len(whole) - (1 if (len(plain) + shift) % 3 else 0)])
    return forms


class Scanner:
    """Finds given texts in bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._needles = [(text, form) for text in texts for form in spellings(text)]

    def hits(self, where: str, content: bytes) -> list[str]:
        return [f"{text!r} in {where}" for text, form in self._needles if form in content]

    def home(self, folder: Path) -> list[str]:
        """Search names and bytes of all files, and the content of Parquet, SQLite and zlib data."""
        found = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            where = str(path.relative_to(folder))
            found += self.hits(where, path.name.encode()) + self.hits(where, path.read_bytes())
            for content in _inside(path):
                found += self.hits(f"inside {where}", content)
        return found

    def server(self, client: redis.Redis) -> list[str]:
        """Search all keys and values."""
        found = []
        for key in client.scan_iter(count=1000):
            found += self.hits(f"redis key {key!r}", key + b"\n" + _value(client, key))
        return found


def _inside(path: Path) -> Iterator[bytes]:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield repr(table.schema).encode()
        for column in table.columns:
            if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
                yield b"\n".join(pc.drop_null(column.cast(pa.binary())).to_pylist())
    elif path.suffix == ".sqlite3":
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            for (name,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
                for row in database.execute(f'select * from "{name}"'):
                    for cell in row:
                        content = cell if isinstance(cell, bytes) else str(cell).encode()
                        yield content
                        with contextlib.suppress(zlib.error):
                            yield zlib.decompress(content)


def _value(client: Any, key: bytes) -> bytes:
    kind = client.type(key)
    if kind == b"string":
        return bytes(client.get(key))
    if kind == b"hash":
        return b"\n".join(part for pair in client.hgetall(key).items() for part in pair)
    if kind == b"stream":
        return repr(client.xrange(key)).encode() + b"\n".join(
            part for _, fields in client.xrange(key) for pair in fields.items() for part in pair
        )
    if kind == b"set":
        return b"\n".join(client.smembers(key))
    if kind == b"zset":
        return b"\n".join(client.zrange(key, 0, -1))
    assert kind == b"list", kind
    return b"\n".join(client.lrange(key, 0, -1))
