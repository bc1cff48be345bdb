"""Sums that do not depend on the order of their terms, so that a feature is a function of the *set* of events.

Floating-point addition is not associative: the same payments in another order, merged from tiles, or subtracted from
a prefix sum, give another last digit. So values are summed as fixed-point integers: a value is rounded once to a
multiple of 2^-64 (5e-20), a sum is a 128-bit integer of that unit and a sum of squares a 256-bit integer of 2^-128.
Integer addition is associative and exact, and subtraction undoes it. This is a small Kulisch accumulator (U. Kulisch,
"Computer Arithmetic and Validity", 2008).

Limits: values of at least 2^-11 keep all their 53 bits, smaller ones keep their bits above 2^-64. The magnitude of a
value is at most `LIMIT` = 2^40 (1.1e12), which `columns` enforces; then eight million of them cannot overflow.

Limbs (the 64-bit digits of a sum) are int64 words, lowest first; kernels treat them as unsigned.
"""

from typing import Any, Final

import numpy as np

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Ints

LIMIT: Final = float(2**40)
"""The largest magnitude of a value; larger values are null."""

_U32 = np.uint64(0xFFFFFFFF)
_MANTISSA = np.int64((1 << 52) - 1)
_HIDDEN = np.int64(1 << 52)


@kernel(inline="always")
def _add_limb(words: Any, at: int, value: Any, carry: Any) -> Any:
    """Add an unsigned limb and a carry to `words[at]`; return the carry out."""
    old = np.uint64(words[at])
    total = old + value
    out = np.uint64(1) if total < old else np.uint64(0)
    total2 = total + carry
    if total2 < total:
        out = np.uint64(1)
    words[at] = np.int64(total2)
    return out


@kernel(inline="always")
def _split(x: float) -> tuple[Any, Any]:
    """Return (mantissa, shift) with |x| = mantissa * 2^(shift - 64), 0 <= shift <= 52, bits below 2^-64 dropped."""
    bits = np.float64(x).view(np.int64)
    exponent = (bits >> np.int64(52)) & np.int64(0x7FF)
    if exponent == 0:
        return np.uint64(0), np.int64(0)
    mantissa = (bits & _MANTISSA) | _HIDDEN
    shift = exponent - np.int64(1075 - 64)
    if shift < 0:
        return (np.uint64(0), np.int64(0)) if shift < -52 else (np.uint64(mantissa >> -shift), np.int64(0))
    return np.uint64(mantissa), shift


@kernel
def add_value(words: Ints, at: int, x: float) -> None:
    """Add `x` to the 128-bit sum at `words[at:at + 2]`."""
    mantissa, shift = _split(x)
    low = mantissa << np.uint64(shift)
    high = np.uint64(0) if shift == 0 else mantissa >> np.uint64(64 - shift)
    if x < 0:
        low = ~low + np.uint64(1)
        high = ~high + (np.uint64(1) if low == 0 else np.uint64(0))
    carry = _add_limb(words, at, low, np.uint64(0))
    _add_limb(words, at + 1, high, carry)


@kernel
def add_square(words: Ints, at: int, x: float) -> None:
    """Add `x * x`, exactly, to the 256-bit sum at `words[at:at + 4]`."""
    mantissa, shift = _split(x)
    a, b = mantissa >> np.uint64(27), mantissa & np.uint64((1 << 27) - 1)
    low = b * b
    high = np.uint64(0)
    middle = a * b  # at 2^28
    part = middle << np.uint64(28)
    low += part
    high += (middle >> np.uint64(36)) + (np.uint64(1) if low < part else np.uint64(0))
    top = a * a  # at 2^54
    part = top << np.uint64(54)
    low += part
    high += (top >> np.uint64(10)) + (np.uint64(1) if low < part else np.uint64(0))
    bit = np.uint64((2 * shift) & 63)
    first = at + ((2 * shift) >> 6)
    if bit == 0:
        l0, l1, l2 = low, high, np.uint64(0)
    else:
        back = np.uint64(64) - bit
        l0, l1, l2 = low << bit, (high << bit) | (low >> back), high >> back
    carry = _add_limb(words, first, l0, np.uint64(0))
    carry = _add_limb(words, first + 1, l1, carry)
    for i in range(first + 2, at + 4):
        carry = _add_limb(words, i, l2 if i == first + 2 else np.uint64(0), carry)


@kernel
def merge_limbs(words: Ints, at: int, other: Ints, other_at: int, n: int) -> None:
    """Add the n-limb sum at `other[other_at:]` to the one at `words[at:]`."""
    carry = np.uint64(0)
    for i in range(n):
        carry = _add_limb(words, at + i, np.uint64(other[other_at + i]), carry)


@kernel
def to_float(words: Ints, at: int) -> float:
    """Return the 128-bit sum at `words[at:]` as float64, within one unit in the last place."""
    return _limbs_to_float(np.uint64(words[at]), np.uint64(words[at + 1]))


@kernel
def difference(words: Ints, more: int, less: int) -> float:
    """Return the 128-bit sum at `words[more:]` minus the one at `words[less:]`, rounded like `to_float`."""
    low, taken = np.uint64(words[more]), np.uint64(words[less])
    high = (
        np.uint64(words[more + 1])
        - np.uint64(words[less + 1])
        - (np.uint64(1) if low < taken else np.uint64(0))
    )
    return _limbs_to_float(low - taken, high)


@kernel
def take_limbs(words: Ints, at: int, other: Ints, more: int, less: int, n: int) -> None:
    """Write the n-limb sum at `other[more:]` minus the one at `other[less:]` to `words[at:]`."""
    borrow = np.uint64(0)
    for i in range(n):
        old, taken = np.uint64(other[more + i]), np.uint64(other[less + i])
        left = old - taken
        words[at + i] = np.int64(left - borrow)
        borrow = np.uint64(1) if old < taken or left < borrow else np.uint64(0)


@kernel(inline="always")
def _limbs_to_float(low: Any, high: Any) -> float:
    negative = np.int64(high) < 0
    if negative:
        low = ~low + np.uint64(1)
        high = ~high + (np.uint64(1) if low == 0 else np.uint64(0))
    total = np.float64(high) + np.float64(low) * 2.0**-64
    return -total if negative else total


@kernel
def variance(sums: Ints, sum_at: int, squares: Ints, squares_at: int, n: int) -> float:
    """Return the sample variance (n * sum of squares - square of sum) / (n (n - 1)).

    The sums stand at `sums[sum_at:]` and `squares[squares_at:]`. `n` is 2 or more and below 2^31. The difference is
    taken in integers, so it does not suffer from cancellation.
    """
    s = np.zeros(4, np.uint64)  # |sum| in 32-bit limbs
    low, high = np.uint64(sums[sum_at]), np.uint64(sums[sum_at + 1])
    if sums[sum_at + 1] < 0:
        low = ~low + np.uint64(1)
        high = ~high + (np.uint64(1) if low == 0 else np.uint64(0))
    s[0], s[1], s[2], s[3] = low & _U32, low >> np.uint64(32), high & _U32, high >> np.uint64(32)
    square = np.zeros(10, np.uint64)
    for i in range(4):
        carry = np.uint64(0)
        for j in range(4):
            total = square[i + j] + s[i] * s[j] + carry
            square[i + j] = total & _U32
            carry = total >> np.uint64(32)
        square[i + 4] = carry
    difference = 0.0
    scale = 2.0**-128
    carry, borrow = np.uint64(0), np.uint64(0)
    limbs = np.zeros(10, np.uint64)
    for i in range(10):
        limb = np.uint64(0)
        if i < 8:
            word = np.uint64(squares[squares_at + (i >> 1)])
            limb = (word >> np.uint64(32)) if i & 1 else (word & _U32)
        total = limb * np.uint64(n) + carry
        carry = total >> np.uint64(32)
        minuend, subtrahend = total & _U32, square[i] + borrow
        borrow = np.uint64(1) if minuend < subtrahend else np.uint64(0)
        limbs[i] = (minuend - subtrahend) & _U32
    for i in range(9, -1, -1):  # from the top, so that small limbs only round
        difference += np.float64(limbs[i]) * (scale * 2.0 ** (32.0 * i))
    return difference / (np.float64(n) * np.float64(n - 1))
