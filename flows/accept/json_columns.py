"""Read JSON objects into columns: one compiled pass over the bytes of a block, without an object per event.

It reads plain objects and leaves the others to a full parser (`flows.accept.decode`). Plain is a flat object, keys and
texts in printable ASCII without escapes, each field once, numbers of at most 15 digits without exponent (so that one
division rounds them correctly, see Clinger, "How to read floating point numbers accurately", 1990), times as
`2026-11-01T12:00:00.25Z`. It reads them as the full parser does; a test compares the two. Figures: docs/adr/0006.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.kernel_cache import kernel
from flows.blocks import TIMESTAMP, Int64s, Mask, Payloads

TEXT, NUMBER, WHOLE, TRUTH, TIME = range(5)
_KINDS: Final = {
    pa.string(): TEXT,
    pa.float64(): NUMBER,
    pa.int64(): WHOLE,
    pa.bool_(): TRUTH,
    TIMESTAMP: TIME,
}
_POWERS: Final = 10.0 ** np.arange(23)
_DAYS_BEFORE: Final = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334])
_MONTH_DAYS: Final = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_BAD: Final = -1

Bytes = npt.NDArray[np.uint8]


class Columns(NamedTuple):
    """The columns of the rows that were read; `good` (bool[payloads]) tells which payloads these are."""

    arrays: list[pa.Array]
    good: Mask


class JsonColumns:
    """Reads the objects of one schema."""

    def __init__(self, schema: pa.Schema, required: Sequence[str]) -> None:
        names = [field.name.encode() for field in schema]
        self._schema = schema
        self._names = np.frombuffer(b"".join(names), np.uint8)
        self._ends = np.cumsum([len(name) for name in names])
        self._kinds = np.array([_KINDS[field.type] for field in schema])
        self._required = np.array([field.name in required for field in schema])

    def __call__(self, payloads: Payloads) -> Columns:
        """Return the columns of the schema, rows in the order of the payloads."""
        n, fields = len(payloads), len(self._kinds)
        words = np.empty((fields, n), np.int64)
        lengths = np.empty((fields, n), np.int64)
        good = np.empty(n, np.bool_)
        data = payloads.data
        _read(
            data,
            payloads.starts,
            payloads.ends,
            self._names,
            self._ends,
            self._kinds,
            self._required,
            words,
            lengths,
            good,
        )
        if not good.all():
            words, lengths = words[:, good], lengths[:, good]
        arrays = [
            _array(data, int(kind), words[f], lengths[f], field.type)
            for f, (kind, field) in enumerate(zip(self._kinds, self._schema, strict=True))
        ]
        return Columns(arrays, good)


def _array(data: Bytes, kind: int, words: Int64s, lengths: Int64s, of: pa.DataType) -> pa.Array:
    n = len(words)
    missing = lengths < 0
    nulls = int(np.count_nonzero(missing))
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little")) if nulls else None
    if kind == TEXT:
        offsets = np.zeros(n + 1, np.int32)
        np.cumsum(np.maximum(lengths, 0) if nulls else lengths, out=offsets[1:])
        text = np.empty(int(offsets[-1]), np.uint8)
        _gather(data, words, offsets, text)
        return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(text), valid, nulls)
    if kind == TRUTH:
        bits = np.packbits(words.astype(np.bool_), bitorder="little")
        return pa.Array.from_buffers(of, n, [valid, pa.py_buffer(bits)], nulls)
    return pa.Array.from_buffers(of, n, [valid, pa.py_buffer(np.ascontiguousarray(words))], nulls)


@kernel
def _gather(data: Bytes, starts: Int64s, offsets: Any, out: Bytes) -> None:
    for i in range(len(starts)):
        at = starts[i]
        for k in range(offsets[i], offsets[i + 1]):
            out[k] = data[at]
            at += 1


@kernel
def _space(data: Bytes, at: int, end: int) -> int:
    while at < end and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@kernel
def _text_end(data: Bytes, at: int, end: int) -> int:
    """Return the place of a plain text's closing quote; -1 if it has none or is not plain."""
    while at < end:
        byte = data[at]
        if byte == 34:
            return at
        if byte < 32 or byte > 126 or byte == 92:
            return -1
        at += 1
    return -1


@kernel
def _literal(data: Bytes, at: int, end: int) -> int:
    """Return 4 for `null`, 5 for `true`, 6 for `false` (the last two: length plus one), 0 for anything else."""
    if (
        at + 4 <= end
        and data[at] == 110
        and data[at + 1] == 117
        and data[at + 2] == 108
        and data[at + 3] == 108
    ):
        return 4
    if (
        at + 4 <= end
        and data[at] == 116
        and data[at + 1] == 114
        and data[at + 2] == 117
        and data[at + 3] == 101
    ):
        return 5
    if (
        at + 5 <= end
        and data[at] == 102
        and data[at + 1] == 97
        and data[at + 2] == 108
        and data[at + 3] == 115
        and data[at + 4] == 101
    ):
        return 6
    return 0


@kernel
def _number(data: Bytes, at: int, end: int) -> tuple[Any, ...]:
    """Return (place after it, digits as a whole number, power of ten, negative, has a point); place -1: not plain."""
    negative = at < end and data[at] == 45
    if negative:
        at += 1
    digits, power, fraction, n = np.int64(0), 0, False, 0
    first = at
    while at < end and 48 <= data[at] <= 57:
        digits = digits * 10 + (data[at] - 48)
        n += 1
        at += 1
        if n > 15:
            return -1, 0, 0, False, False
    if n == 0 or (data[first] == 48 and n > 1):
        return -1, 0, 0, False, False
    if at < end and data[at] == 46:
        fraction = True
        at += 1
        begin = at
        while at < end and 48 <= data[at] <= 57:
            digits = digits * 10 + (data[at] - 48)
            n += 1
            power -= 1
            at += 1
            if n > 15:
                return -1, 0, 0, False, False
        if at == begin:
            return -1, 0, 0, False, False
    if at < end and (data[at] == 69 or data[at] == 101):
        return -1, 0, 0, False, False
    if negative and digits == 0:
        return -1, 0, 0, False, False
    return at, digits, power, negative, fraction


@kernel
def _two(data: Bytes, at: int) -> Any:
    a, b = np.int64(data[at]) - 48, np.int64(data[at + 1]) - 48
    return a * 10 + b if 0 <= a <= 9 and 0 <= b <= 9 else _BAD


@kernel
def _time(data: Bytes, at: int, end: int) -> Any:
    """Return microseconds since 1970 of `YYYY-MM-DDTHH:MM:SS[.ffffff]Z`, years 1970 to 2261; -1 for any other form."""
    if end - at < 20 or data[end - 1] != 90:
        return _BAD
    if (
        data[at + 4] != 45
        or data[at + 7] != 45
        or data[at + 10] != 84
        or data[at + 13] != 58
        or data[at + 16] != 58
    ):
        return _BAD
    century, rest, month, day = _two(data, at), _two(data, at + 2), _two(data, at + 5), _two(data, at + 8)
    hour, minute, second = _two(data, at + 11), _two(data, at + 14), _two(data, at + 17)
    if min(century, rest, month, day, hour, minute, second) < 0:
        return _BAD
    year = century * 100 + rest
    leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    if not (1970 <= year <= 2261 and 1 <= month <= 12 and hour <= 23 and minute <= 59 and second <= 59):
        return _BAD
    if not 1 <= day <= _MONTH_DAYS[month - 1] + (1 if leap and month == 2 else 0):
        return _BAD
    before = year - 1
    days = 365 * (year - 1970) + (before // 4 - before // 100 + before // 400) - 477
    days += _DAYS_BEFORE[month - 1] + (1 if leap and month > 2 else 0) + day - 1
    micros = np.int64(0)
    if end - at > 20:
        n = end - at - 21
        if data[at + 19] != 46 or not 1 <= n <= 6:
            return _BAD
        for k in range(6):
            micros *= 10
            if k < n:
                digit = np.int64(data[at + 20 + k]) - 48
                if not 0 <= digit <= 9:
                    return _BAD
                micros += digit
    return ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + micros


@kernel
def _field(data: Bytes, at: int, end: int, names: Bytes, name_ends: Int64s, guess: int) -> int:
    """Return the number of the field that a key names, trying `guess` first; -1: none."""
    fields = len(name_ends)
    for k in range(fields):
        f = (guess + k) % fields
        start = name_ends[f - 1] if f else 0
        if name_ends[f] - start != end - at:
            continue
        same = True
        for j in range(end - at):
            if names[start + j] != data[at + j]:
                same = False
                break
        if same:
            return f
    return -1


@kernel
def _read(
    data: Bytes,
    starts: Int64s,
    ends: Int64s,
    names: Bytes,
    name_ends: Int64s,
    kinds: Int64s,
    required: Mask,
    words: Any,
    lengths: Any,
    good: Mask,
) -> None:
    """Read objects into `words` and `lengths`, int64[fields, rows], and `good`, bool[rows].

    `words`: a text's place, else the value's 64 bits. `lengths`: a text's length, 0 for other values, -1: null, -2: not
    seen.
    """
    floats = words.view(np.float64)
    fields = len(kinds)
    for i in range(len(starts)):
        good[i] = False
        for f in range(fields):
            lengths[f, i] = -2  # not seen
            words[f, i] = 0
        at, end = _space(data, starts[i], ends[i]), ends[i]
        if at >= end or data[at] != 123:
            continue
        at = _space(data, at + 1, end)
        guess, fine, closed = 0, True, False
        while fine and not closed:
            if at >= end or data[at] != 34:
                fine = False  # also an empty object: it lacks what is required
                break
            stop = _text_end(data, at + 1, end)
            if stop < 0:
                fine = False
                break
            f = _field(data, at + 1, stop, names, name_ends, guess)
            at = _space(data, stop + 1, end)
            if at >= end or data[at] != 58:
                fine = False
                break
            at = _space(data, at + 1, end)
            if f >= 0:
                guess = f + 1 if f + 1 < fields else 0
                if lengths[f, i] != -2:
                    fine = False
                    break
            kind = kinds[f] if f >= 0 else -1
            if at < end and data[at] == 34:
                stop = _text_end(data, at + 1, end)
                if stop < 0:
                    fine = False
                    break
                if kind == TEXT:
                    words[f, i], lengths[f, i] = at + 1, stop - at - 1
                elif kind == TIME:
                    time = _time(data, at + 1, stop)
                    if time < 0:
                        fine = False
                        break
                    words[f, i], lengths[f, i] = time, 0
                elif kind >= 0:
                    fine = False
                    break
                at = stop + 1
            else:
                word = _literal(data, at, end)
                if word == 4:
                    if kind >= 0:
                        lengths[f, i] = -1
                    at += 4
                elif word:
                    if kind == TRUTH:
                        words[f, i], lengths[f, i] = word == 5, 0
                    elif kind >= 0:
                        fine = False
                        break
                    at += word - 1
                else:
                    at, digits, power, negative, fraction = _number(data, at, end)
                    if at < 0:
                        fine = False
                        break
                    if kind == NUMBER:
                        value = digits / _POWERS[-power] if fraction else np.float64(digits)
                        floats[f, i], lengths[f, i] = -value if negative else value, 0
                    elif kind == WHOLE and not fraction:
                        words[f, i], lengths[f, i] = -digits if negative else digits, 0
                    elif kind >= 0:
                        fine = False
                        break
            at = _space(data, at, end)
            if at < end and data[at] == 44:
                at = _space(data, at + 1, end)
            elif at < end and data[at] == 125:
                closed = _space(data, at + 1, end) == end
                fine = closed
            else:
                fine = False
        if fine:
            for f in range(fields):
                if required[f] and lengths[f, i] < 0:
                    fine = False
        good[i] = fine
