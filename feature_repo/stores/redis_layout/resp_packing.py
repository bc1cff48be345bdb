r"""Kernels that write Redis commands (RESP, redis.io/docs/reference/protocol-spec) into a buffer of bytes.

An argument is `$<length>`, a line end, its bytes and a line end; a command is `*<arguments>`, a line end, and these.
The kernels take a buffer and a start position, and return the position behind what they wrote.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Bytes

MOST_TIME: Final = 24
"""Bytes that a protobuf Timestamp takes at most."""


def encode(argument: Any) -> bytes:
    r"""Return one argument in RESP.

    >>> encode("EVALSHA"), encode(7)
    (b'$7\r\nEVALSHA\r\n', b'$1\r\n7\r\n')
    """
    data = argument if isinstance(argument, bytes) else str(argument).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def as_bytes(data: bytes) -> Bytes:
    """Return uint8[len(data)], a writable copy."""
    return np.frombuffer(data, np.uint8).copy()


@kernel
def put(out: Bytes, at: int, data: Bytes) -> int:
    """Write bytes at a position of `out`; return the position behind them."""
    target = out[at : at + len(data)]
    for k in range(len(data)):
        target[k] = data[k]
    return at + len(data)


@kernel
def line_end(out: Bytes, at: int) -> int:
    """Write CR LF; return the position behind it."""
    out[at], out[at + 1] = 13, 10
    return at + 2


@kernel
def number(out: Bytes, at: int, mark: int, value: int) -> int:
    """Write a type byte, a number and a line end; return the position behind them."""
    out[at] = mark
    return decimal(out, at + 1, value)


@kernel
def decimal(out: Bytes, at: int, value: int) -> int:
    """Write a non-negative integer in decimal digits and a line end; return the position behind it."""
    digits = 1
    rest = value // 10
    while rest:
        digits += 1
        rest //= 10
    for k in range(digits - 1, -1, -1):
        out[at + k] = 48 + value % 10
        value //= 10
    return line_end(out, at + digits)


@kernel
def key(out: Bytes, at: int, prefix: Bytes, name: Bytes, suffix: Bytes) -> int:
    """Write a Redis key, given in three parts, as an argument; return the position behind it."""
    at = number(out, at, 36, len(prefix) + len(name) + len(suffix))  # $
    at = put(out, at, prefix)
    at = put(out, at, name)
    return line_end(out, put(out, at, suffix))


@kernel
def timestamp(out: Bytes, us: int) -> int:
    """Write the bytes of `keys.encode_timestamp`; return the number of bytes."""
    at = 0
    for part in range(2):
        value = np.uint64(us // 1_000_000) if part == 0 else np.uint64(us % 1_000_000 * 1000)
        if value == 0:
            continue
        out[at] = 8 if part == 0 else 16
        at += 1
        while value > np.uint64(127):
            out[at] = np.uint8(value & np.uint64(127)) | 128
            value >>= np.uint64(7)
            at += 1
        out[at] = np.uint8(value)
        at += 1
    return at
