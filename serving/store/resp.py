r"""Commands as bytes of the Redis protocol, packed by hand: one buffer, one write, whatever their number.

>>> pack([[b"HGET", b"k", b"f"]])
b'*3\r\n$4\r\nHGET\r\n$1\r\nk\r\n$1\r\nf\r\n'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def pack(commands: Iterable[Sequence[bytes]]) -> bytes:
    """Any commands."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        parts += [b"$%d\r\n%b\r\n" % (len(part), part) for part in command]
    return b"".join(parts)


class ReadPacker:
    """HMGET commands whose fields are always the same few lists, so that only the key is packed each time."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[bytes], bytes, bytes]] = {}

    def pack(self, reads: Iterable[tuple[bytes, list[bytes]]]) -> bytes:
        """(key, fields) pairs; a fields list is recognised by its identity, and kept, so that the identity stays taken."""
        parts: list[bytes] = []
        for key, fields in reads:
            known = self._known.get(id(fields))
            if known is None:
                head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields))
                tail = b"".join(b"$%d\r\n%b\r\n" % (len(f), f) for f in fields)
                known = self._known[id(fields)] = (fields, head, tail)
            parts += (known[1], b"$%d\r\n%b\r\n" % (len(key), key), known[2])
        return b"".join(parts)
