"""Kernels that turn strings into words: hashes of keys and values, and ids that sort like their strings.

The hash is two multiply-mix chains with different seeds and the finaliser of MurmurHash3 (A. Appleby, 2011, `fmix64`).
"""

from typing import Any, Final

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Bytes, Ints

FEAST_STRING: Final = 2
"""Feast's `ValueType.STRING`, which stands before a string in an entity key."""

_SIGN = np.uint64(1 << 63)
_SEED_HIGH = np.uint64(0x9E3779B97F4A7C15)
_SEED_LOW = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)


@kernel
def write_key_part(at: Ints, offsets: Ints, text: Bytes, out: Bytes) -> None:
    """Write one component of every key as Feast serialises it (type, length, value) from byte `at[i]` of `out` on.

    `at` (int64 [n]) is moved behind what was written. String i is `text[offsets[i]:offsets[i + 1]]`.
    """
    for i in range(len(at)):
        length = offsets[i + 1] - offsets[i]
        o = at[i]
        out[o] = FEAST_STRING
        out[o + 1 : o + 4] = 0
        for k in range(4):
            out[o + 4 + k] = (length >> (8 * k)) & 0xFF
        for k in range(length):
            out[o + 8 + k] = text[offsets[i] + k]
        at[i] = o + 8 + length


@kernel(inline="always")
def _mix(h: Any) -> Any:
    h ^= h >> np.uint64(33)
    h *= _MIX_1
    h ^= h >> np.uint64(33)
    h *= _MIX_2
    return h ^ (h >> np.uint64(33))


@kernel(inline="always")
def _word(data: Any, start: int, end: int) -> Any:
    """Return up to eight bytes as a big-endian word, zero-padded at the end."""
    word = np.uint64(0)
    for k in range(8):
        byte = np.uint64(data[start + k]) if start + k < end else np.uint64(0)
        word = (word << np.uint64(8)) | byte
    return word


@kernel
def _hash(data: Bytes, start: int, end: int) -> tuple[Any, Any]:
    """Return a 128-bit hash of `data[start:end]` as two words."""
    high, low = _SEED_HIGH ^ np.uint64(end - start), _SEED_LOW
    for at in range(start, end, 8):
        word = _word(data, at, end)
        high = _mix(high ^ word)
        low = _mix(low + word * _SEED_HIGH)
    return _mix(high), _mix(low)


@kernel
def hash_bytes(offsets: Ints, data: Bytes, out: Ints) -> None:
    """Write the 128-bit hash of `data[offsets[i]:offsets[i + 1]]` to `out[i]` (int64 [n, 2])."""
    for i in range(len(out)):
        high, low = _hash(data, offsets[i], offsets[i + 1])
        out[i, 0], out[i, 1] = np.int64(high), np.int64(low)


@kernel
def hash_text(data: Bytes) -> Any:
    """Return the 64-bit hash of one value; never 0, which stands for null."""
    value = np.int64(_hash(data, 0, len(data))[0])
    return value if value != 0 else np.int64(1)


@kernel
def _nibble(byte: int) -> int:
    """Return the value of a hexadecimal digit (0-9, a-f), -1 for any other byte."""
    if 48 <= byte <= 57:
        return byte - 48
    if 97 <= byte <= 102:
        return byte - 87
    return -1


@kernel
def order_ids(offsets: Ints, data: Bytes, out: Ints) -> None:
    """Write every id as two int64 words to `out` ([n, 2]).

    Words order like the strings for ids of up to 16 bytes and for lower-case UUIDs. Other ids compare by their first
    eight bytes and then by a hash of the whole string: also a total order that does not depend on arrival.
    """
    for i in range(len(out)):
        start, end = offsets[i], offsets[i + 1]
        high, low = _word(data, start, end), _word(data, start + 8, end)
        if end - start == 36:
            u_high, u_low, digits = np.uint64(0), np.uint64(0), 0
            for k in range(36):
                byte = data[start + k]
                if k == 8 or k == 13 or k == 18 or k == 23:
                    digits += 100 if byte != 45 else 0
                    continue
                nibble = _nibble(byte)
                digits += 1 if nibble >= 0 else 100
                u_high = (u_high << np.uint64(4)) | (u_low >> np.uint64(60))
                u_low = (u_low << np.uint64(4)) | np.uint64(max(nibble, 0))
            if digits == 32:
                high, low = u_high, u_low
            else:
                low = _hash(data, start, end)[0]
        elif end - start > 16:
            low = _hash(data, start, end)[0]
        out[i, 0], out[i, 1] = np.int64(high ^ _SIGN), np.int64(low ^ _SIGN)
