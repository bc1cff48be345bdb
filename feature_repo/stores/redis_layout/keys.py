"""Names and bytes in the online store: hash per entity, key bytes and `_ts:<view>` field as in Feast's Redis store.

A windowed view adds one field per kept version, `_state:<view>:<version>`, with the packed state
(`feature_repo.windows.state`); all versions of a view share `_ts:<view>`. No Feast import: flows and scorer build
these bytes themselves, and a test compares them with Feast's.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Final

from feature_repo.windows.kernels.hashing import FEAST_STRING
from feature_repo.windows.spec import ViewSpec

_U32: Final = struct.Struct("<I")


def key_prefix(join_keys: Sequence[str]) -> bytes:
    """Return the bytes before the values in a serialised entity key (version 3): the sorted names of the join keys."""
    parts = [_U32.pack(len(join_keys))]
    for name in sorted(join_keys):
        text = name.encode()
        parts += [_U32.pack(FEAST_STRING), _U32.pack(len(text)), text]
    return b"".join(parts)


def key_values(values: Sequence[str]) -> bytes:
    """Return the value part of a key of strings, in the order of sorted join keys, as `windows.columns.Keys.data`."""
    parts = []
    for value in values:
        text = value.encode()
        parts += [_U32.pack(FEAST_STRING), _U32.pack(len(text)), text]
    return b"".join(parts)


def version_id(spec: ViewSpec) -> str:
    """Return `<view>:<version>`; the version is eight hex digits that stand for the state's layout and keys.

    Definitions with the same version share their states: an additional shorter window, or another feature name, needs
    no new state.
    """
    what = f"{spec.fingerprint}:{'+'.join(spec.join_keys)}".encode()
    return f"{spec.name}:{hashlib.blake2b(what, digest_size=4).hexdigest()}"


def state_field(spec: ViewSpec) -> bytes:
    """Return the hash field with the packed state of this version of a windowed view."""
    return b"_state:" + version_id(spec).encode()


def time_field(view: str) -> bytes:
    """Return the hash field with the view's newest event time, a protobuf Timestamp, as Feast writes it."""
    return b"_ts:" + view.encode()


def encode_timestamp(us: int) -> bytes:
    """Return microseconds UTC as the bytes of a `google.protobuf.Timestamp`, without parts that are zero."""
    seconds, rest = divmod(us, 1_000_000)
    out = b""
    if seconds:
        out += b"\x08" + _varint(seconds & 0xFFFFFFFFFFFFFFFF)
    if rest:
        out += b"\x10" + _varint(rest * 1000)
    return out


def decode_timestamp(data: bytes) -> int:
    """Return the microseconds UTC of bytes made by `encode_timestamp`."""
    seconds = nanos = at = 0
    while at < len(data):
        field = data[at]
        value, at = _read_varint(data, at + 1)
        if field == 0x08:
            seconds = value - (1 << 64) if value >> 63 else value
        elif field == 0x10:
            nanos = value
    return seconds * 1_000_000 + nanos // 1000


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


_NUMBERS: Final = {
    "string": 2,
    "int32": 3,
    "int64": 4,
    "double": 5,
    "float": 6,
    "bool": 7,
    "unix_timestamp": 8,
}
"""Protobuf field of Feast's `Value` by the lower-case name of its `ValueType`."""

VALUE_KINDS: Final = frozenset(_NUMBERS)
"""The types that `encode_value` supports."""


def encode_value(value: bool | str | float | None, kind: str) -> bytes:
    r"""Return a scalar as the bytes of a Feast `Value` message; null is empty. `unix_timestamp` takes whole seconds.

    >>> encode_value("Bern", "string"), encode_value(None, "double")
    (b'\x12\x04Bern', b'')
    """
    if value is None:
        return b""
    number = _NUMBERS[kind]
    if isinstance(value, str):
        text = value.encode()
        return bytes((number << 3 | 2,)) + _varint(len(text)) + text
    if kind == "double":
        return bytes((number << 3 | 1,)) + struct.pack("<d", value)
    if kind == "float":
        return bytes((number << 3 | 5,)) + struct.pack("<f", value)
    return bytes((number << 3,)) + _varint(int(value) & 0xFFFFFFFFFFFFFFFF)


def decode_value(data: bytes) -> bool | bytes | str | int | float | None:
    """Return the scalar in the bytes of a Feast `Value` message, None for null.

    Raises ValueError for lists and maps, which a scorer does not read.
    """
    if not data:
        return None
    number, wire = data[0] >> 3, data[0] & 7
    if number > 8 or (number != 8 and data[0] & 0x80):
        if data[0] == 0x98 and data[1] == 0x01:  # null_val = 19
            return None
        msg = f"a stored feature value is not a scalar (protobuf field {number})"
        raise ValueError(msg)
    if wire == 0:
        value, _ = _read_varint(data, 1)
        if number == 7:
            return bool(value)
        return value - (1 << 64) if value >> 63 else value
    if wire == 1:
        return float(struct.unpack_from("<d", data, 1)[0])
    if wire == 5:
        return float(struct.unpack_from("<f", data, 1)[0])
    size, at = _read_varint(data, 1)
    text = data[at : at + size]
    return text.decode() if number == 2 else text
