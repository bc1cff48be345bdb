"""Mutations of a good payment, one per call.

Mutated are bytes, types, encodings, sizes up to 10 MB, numbers, times, keys, nesting, texts, structure, and the shape
of the bus entry. Some mutations give a valid event (an unknown field, another spelling of a number). Each must be
accepted or dead-lettered as a whole.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from typing import Any, Final

Event = dict[str, Any]
Fields = list[tuple[bytes, bytes]]
LARGEST: Final = 10_000_000


def mutated(event: Event, draw: random.Random) -> Fields:
    """The fields of a bus entry with a mutated event."""
    if draw.random() < 0.04:
        return draw.choice(_SHAPES)(_plain(event))
    return [(b"v", draw.choice(_KINDS)(event, draw))]


def _plain(event: Event) -> bytes:
    return json.dumps(event).encode()


def _with(event: Event, name: str, text: str) -> bytes:
    """The event as JSON, with the value of one field replaced by a text."""
    parts = [f"{json.dumps(k)}: {text if k == name else json.dumps(v)}" for k, v in event.items()]
    if name not in event:
        parts.append(f"{json.dumps(name)}: {text}")
    return ("{" + ", ".join(parts) + "}").encode("utf-8", "surrogatepass")


def _bytes(event: Event, draw: random.Random) -> bytes:
    whole = bytearray(_plain(event))
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(whole) + 1)
        to = min(len(whole), at + draw.randrange(30))
        kind = draw.randrange(6)
        if kind == 0 and at < len(whole):
            whole[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del whole[at:to]
        elif kind == 2:
            whole[at:at] = draw.randbytes(draw.randint(1, 8))
        elif kind == 3:
            whole[at:at] = whole[at:to]
        elif kind == 4:
            del whole[at:]
        else:
            whole[at:to] = bytes(reversed(whole[at:to]))
    return bytes(whole)


def _noise(event: Event, draw: random.Random) -> bytes:
    del event
    return draw.choice([b"", draw.randbytes(draw.randint(1, 500)), b"\0" * draw.randint(1, 99), b" ", b"\n"])


_VALUES: Final = (
    "null", "true", "false", "0", "-1", "1.5", '""', '"12"', "[]", "{}", "[1, [2]]", '{"a": {"b": null}}', '"null"',
)  # fmt: skip


def _type(event: Event, draw: random.Random) -> bytes:
    return _with(event, draw.choice([*event]), draw.choice(_VALUES))


_NUMBERS: Final = (
    "NaN", "-NaN", "Infinity", "-Infinity", "nan", "inf", "1e308", "1.8e308", "1e400", "-1e400", "5e-324", "1e-400", "-0", "-0.0",
    "0x10", "007", "1_000", "+1", ".5", "5.", "1e", "1e+", "--1", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
    "18446744073709551616", "1000000000000.0000001", "1000000000000.1", "0.1e1", "1E5", "12345678901234567890.5", "١٢",
)  # fmt: skip


def _number(event: Event, draw: random.Random) -> bytes:
    text = draw.choice(
        [*_NUMBERS, "9" * draw.choice([16, 20, 400, 100_000]), "0." + "3" * 5_000, "1" + "0" * 309]
    )
    return _with(
        event, draw.choice(["amount", "amount", "latitude", "account_balance_before", "event_id"]), text
    )


_TIMES: Final = (
    "9999-12-31T23:59:59Z", "10000-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00Z", "1677-09-21T00:00:00Z", "2261-12-31T23:59:59Z", "2262-04-12T00:00:00Z", "-2026-11-01T00:00:00Z",
    "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-11-01T24:00:00Z", "2026-11-01T23:59:60Z", "2026-11-01T00:00:00",
    "2026-11-01", "2026-11-01T00:00:00+25:00", "2026-11-01T00:00:00-00:00", "2026-11-01t00:00:00z", "2026-11-01 00:00:00Z",
    "2026-11-01T00:00:00.123456789Z", "2026-11-01T00:00:00.Z", "1793491200", "now", "", "2026-11-01T00:00:00Z ", "２０２６-11-01T00:00:00Z",
)  # fmt: skip


def _time(event: Event, draw: random.Random) -> bytes:
    return _with(event, "event_timestamp", json.dumps(draw.choice(_TIMES)))


_TEXTS: Final = (
    "\0", "a\0b", "\x1b[31m", "\u202e", "\u2028", "\ufeff", "\ufffe", "\U0010ffff", "e\u0301" * 20, "💳", "' OR 1=1 --", "../../etc",
    "%s%n", "a" * 128, "a" * 129, "Ünïcødé 口座", "\r\n*1\r\n$8\r\nFLUSHALL\r\n", "millstream:payments:0", " ", "\n", "None", "a\\",
)  # fmt: skip


def _text(event: Event, draw: random.Random) -> bytes:
    name = draw.choice(["account_id", "merchant_id", "event_id", "type", "currency", "channel", "device_id"])
    return _with(event, name, json.dumps(draw.choice(_TEXTS), ensure_ascii=draw.random() < 0.5))


_ESCAPES: Final = (
    r'"\ud800"', r'"\udfff"', r'"\ud800\ud800"', r'"\udc00\ud800"', r'"\ud83d\udcb3"', r'"\u0000"', r'"\x41"', r'"\u12"', r'"\'"',
    '"\ud800"', '"\n"', '"\t"', '"', r'"\"', "'a'",
)  # fmt: skip


def _escape(event: Event, draw: random.Random) -> bytes:
    return _with(event, draw.choice(["account_id", "event_id", "currency", "note"]), draw.choice(_ESCAPES))


def _encoding(event: Event, draw: random.Random) -> bytes:
    odd = json.dumps(event | {"account_id": "Zoë"}, ensure_ascii=False)
    kinds: list[Callable[[], bytes]] = [
        lambda: odd.encode("utf-16"),
        lambda: odd.encode("utf-32-le"),
        lambda: odd.encode("latin-1"),
        lambda: odd.encode("utf-8-sig"),
        lambda: odd.encode("utf-7"),
        lambda: gzip.compress(_plain(event), mtime=0),
        lambda: _plain(event).replace(b"EUR", b"E\xff\xfe"),
        lambda: _plain(event).replace(b"EUR", b"\xc0\xaf\xc0"),
        lambda: _plain(event).replace(b"EUR", b"\xed\xa0\x80"),
        lambda: _plain(event).replace(b"EUR", b"\xf5\x80\x80\x80"),
        lambda: _plain(event).replace(b'"currency"', b'"curr\xe9ncy"'),
    ]
    return draw.choice(kinds)()


def _keys(event: Event, draw: random.Random) -> bytes:
    name = draw.choice([*event])
    more = f"{json.dumps(name)}: {draw.choice([*_VALUES, json.dumps(event[name])])}".encode()
    whole = _plain(event)
    kinds = [
        b"{" + more + b", " + whole[1:],
        whole[:-1] + b", " + more + b"}",
        whole.replace(b'"amount"', b'"Amount"'),
        whole.replace(b'"amount"', rb'"\u0061mount"'),
        whole[:-1] + b', "": 1}',
        json.dumps({k: v for k, v in event.items() if k != name}).encode(),
        whole[:-1] + b"".join(b', "k%d": %d' % (k, k) for k in range(2_000)) + b"}",
    ]
    return draw.choice(kinds)


def _nesting(event: Event, draw: random.Random) -> bytes:
    depth = draw.choice([10, 500, 1_200, 20_000, 200_000])
    opened, closed = draw.choice([("[", "]"), ('{"a":', "}")])
    inner = opened * depth + "1" + closed * (depth if draw.random() < 0.7 else 0)
    if draw.random() < 0.2:
        return inner.encode()
    return _with(event, draw.choice(["note", "amount", "account_id"]), inner)


def _structure(event: Event, draw: random.Random) -> bytes:
    whole = _plain(event)
    kinds = [
        b"[" + whole + b"]",
        whole + whole,
        whole + b"\n" + whole,
        whole[:-1] + b",}",
        whole[:-1],
        whole + b"}",
        whole + b"\0",
        b"// payment\n" + whole,
        whole.replace(b'"', b"'"),
        whole.replace(b":", b"="),
        json.dumps(whole.decode()).encode(),
        json.dumps([*event.values()]).encode(),
        b"null", b"true", b"0", b'""', b"{}", b"[]", b"NaN", b"{", b"}", b'"', b"event_id,amount\np1,3.5",
        b"<payment><amount>1</amount></payment>",
        json.dumps(event, indent=2).encode(),
        b" \t\r\n" + whole + b" \t\r\n",
    ]  # fmt: skip
    return draw.choice(kinds)


def _size(event: Event, draw: random.Random) -> bytes:
    n = draw.choice([300, 5_000, 70_000]) if draw.random() < 0.9 else draw.randint(1_000_000, LARGEST)
    kinds: list[Callable[[], bytes]] = [
        lambda: _with(event, "note", '"' + "n" * n + '"'),
        lambda: _with(event, draw.choice(["account_id", "event_id", "currency"]), '"' + "n" * n + '"'),
        lambda: _with(event, "device_id", '"' + "é" * (n // 2) + '"'),
        lambda: _with(event, "amount", '"' + "1" * n + '"'),
        lambda: _with(event, "note", "[" + "1," * (n // 2) + "1]"),
        lambda: _plain(event) + b" " * n,
        lambda: b"x" * n,
        lambda: b'{"event_id": "' + b"y" * n,
        lambda: draw.randbytes(n),
    ]
    return draw.choice(kinds)()


_KINDS: Final[tuple[Callable[[Event, random.Random], bytes], ...]] = (
    _bytes, _bytes, _noise, _type, _number, _time, _text, _escape, _encoding, _keys, _nesting, _structure, _size,
)  # fmt: skip

_SHAPES: Final[tuple[Callable[[bytes], Fields], ...]] = (
    lambda whole: [(b"w", whole)],
    lambda whole: [(b"", whole)],
    lambda whole: [(b"v", whole), (b"traceparent", b"00-1-2-03")],
    lambda whole: [(b"trace", b"7"), (b"v", whole)],
    lambda whole: [(b"v", whole), (b"v", b"{}")],
    lambda whole: [(b"V", whole), (b"x", b"\xff\0")],
    lambda whole: [(b"v", b"")],
)
