"""Events as flat arrays. One row per event of a block, in the block's order; times are int64 UTC microseconds.

Strings never reach the kernels: an `event_id` becomes two int64 words that sort like the string, a key or a distinct value
becomes a hash. Every column is converted once per block, however many views read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import SchemaError
from feature_repo.windows.exact_sum import LIMIT
from feature_repo.windows.layout import EVENT_HASHED
from feature_repo.windows.spec import ViewSpec

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

FEAST_STRING: Final = 2
"""Feast's `ValueType.STRING`, which stands before a string in an entity key."""

FEW: Final = 32

_SIGN = np.uint64(1 << 63)
_SEED_HIGH = np.uint64(0x9E3779B97F4A7C15)
_SEED_LOW = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)


@dataclass(frozen=True)
class Keys:
    """The entity key of every row: its hash (int64 [n, 2]) and its bytes, row i at `data[offsets[i]:offsets[i + 1]]`.

    The bytes are the value part of Feast's serialised entity key (type, length, value; join keys in sorted order), so the online
    store's key is a constant prefix, these bytes, and the project. 128 bits of hash stand for equality of keys.
    """

    hashes: Ints
    offsets: Ints
    data: Bytes

    def __len__(self) -> int:
        return len(self.hashes)

    def shards(self, n_shards: int) -> Ints:
        """The shard (0 <= shard < n_shards) of every row; the same for a key for ever."""
        return (self.hashes[:, 0].view(np.uint64) % np.uint64(n_shards)).astype(np.int64)


@dataclass(frozen=True)
class Events:
    """What one exact row holds, per event: `ints` [n, 3 + hashed] (time, id, hashes) and `floats` [n, values] (null = NaN)."""

    ints: Ints
    floats: Floats

    def __len__(self) -> int:
        return len(self.ints)

    def take(self, rows: npt.NDArray[Any]) -> Events:
        return Events(self.ints[rows], self.floats[rows])


class BlockColumns:
    """The columns of one Arrow block (`RecordBatch` or `Table`), each converted at most once.

    Raises `SchemaError` naming the column when one is missing or cannot be a number.
    """

    def __init__(self, block: pa.RecordBatch | pa.Table) -> None:
        self._block = block
        self._names = frozenset(block.schema.names)
        self._plain: dict[str, pa.Array] = {}
        self._floats: dict[str, Floats] = {}
        self._hashes: dict[str, Ints] = {}
        self._ids: dict[str, Ints] = {}
        self._times: dict[str, Ints] = {}

    def has_keys(self, join_keys: tuple[str, ...]) -> npt.NDArray[np.bool_]:
        """Which rows have a key: none of its components is null. The others are in no window of its views."""
        mask = np.ones(self._block.num_rows, np.bool_)
        for name in join_keys:
            mask &= self._of_different(name, _is_valid)
        return mask

    def keys(self, join_keys: tuple[str, ...]) -> Keys:
        """The key of every row. A null component has the bytes of an empty string: leave those rows out (`has_keys`)."""
        return _keys([self._utf8(name) for name in join_keys], self._block.num_rows)

    def key_hashes(self, join_keys: tuple[str, ...]) -> Ints:
        """The hashes of `keys`, int64 [n, 2]."""
        if len(join_keys) != 1:
            return self.keys(join_keys).hashes
        return self._of_different(join_keys[0], _hash_keys)

    def events(self, spec: ViewSpec) -> Events:
        n = self._block.num_rows
        ints = np.empty((n, EVENT_HASHED + len(spec.hashed)), np.int64)
        ints[:, 0] = self.times("event_timestamp")
        ints[:, 1:3] = self.ids(spec.id_column)
        for i, name in enumerate(spec.hashed):
            ints[:, EVENT_HASHED + i] = self.hashed(name)
        floats = np.empty((n, len(spec.values)), np.float64)
        for i, name in enumerate(spec.values):
            floats[:, i] = self.values(name)
        return Events(ints, floats)

    def values(self, name: str) -> Floats:
        """A column of `ViewSpec.values`."""
        return self._presence(name[1:]) if name.startswith("?") else self._values(name)

    def times(self, name: str) -> Ints:
        """A timestamp column as int64 microseconds, UTC."""
        if name not in self._times:
            self._times[name] = times_us(self._column(name))
        return self._times[name]

    def ids(self, name: str) -> Ints:
        """An id column as int64 [n, 2], ordered as the strings."""
        if name not in self._ids:
            offsets, data = self._utf8(name)
            self._ids[name] = np.empty((self._block.num_rows, 2), np.int64)
            _ordered_ids(offsets, data, self._ids[name])
        return self._ids[name]

    def _values(self, name: str) -> Floats:
        if name not in self._floats:
            column = self._column(name)
            try:
                floats = numbers(column)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                msg = f"column {name!r} ({column.type}) cannot be aggregated as a number: {error}"
                raise SchemaError(msg) from error
            floats[~(np.abs(floats) <= LIMIT)] = np.nan
            self._floats[name] = floats
        return self._floats[name]

    def _presence(self, name: str) -> Floats:
        valid = self._column(name).is_valid().to_numpy(zero_copy_only=False)
        return np.where(valid, 1.0, np.nan)

    def hashed(self, name: str) -> Ints:
        """A column of `ViewSpec.hashed`: one word a value, 0 for null."""
        if name not in self._hashes:
            self._hashes[name] = self._of_different(name, _hash_values)
        return self._hashes[name]

    def _of_different(self, name: str, function: Callable[[pa.Array], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """A function of every value of a column; of a dictionary it is taken once for each different value."""
        column = self._stored(name)
        if not pa.types.is_dictionary(column.type):
            return function(self._column(name))
        parts = [function(plain(pa.array([], column.type.value_type)))]
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            different, places = plain(chunk.dictionary), chunk.indices
            if places.null_count:
                places = places.fill_null(len(different))
                different = pa.concat_arrays([different, pa.nulls(1, different.type)])
            few = len(different) <= len(places)
            parts.append(
                function(different).take(places.to_numpy(), axis=0) if few else function(plain(chunk))
            )
        return parts[1] if len(parts) == 2 else np.concatenate(parts)

    def _column(self, name: str) -> pa.Array:
        if name not in self._plain:
            self._plain[name] = plain(self._stored(name))
        return self._plain[name]

    def _stored(self, name: str) -> pa.Array | pa.ChunkedArray:
        if name not in self._names:
            msg = f"column {name!r} is not among the event's columns ({', '.join(self._block.schema.names)}); correct the aggregation or the source"
            raise SchemaError(msg)
        return self._block.column(name)

    def _utf8(self, name: str) -> tuple[Ints, Bytes]:
        return _utf8(_as_text(self._column(name)))


def plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One contiguous array, dictionaries decoded, large strings made plain."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    return array


def _as_text(column: pa.Array) -> pa.Array:
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def numbers(column: pa.Array) -> Floats:
    """A column of numbers or booleans as float64, null = NaN; a copy.

    Raises `pa.ArrowInvalid` or `pa.ArrowNotImplementedError` for what is no number. A call of an Arrow function costs tens of
    microseconds, so the few values of a small block are taken one by one.
    """
    if column.type == pa.float64() or pa.types.is_boolean(column.type):
        if len(column) <= FEW:
            return np.array([np.nan if v is None else v for v in column.to_pylist()], np.float64)
        if not column.null_count and column.type == pa.float64():
            return np.array(column.to_numpy(), np.float64)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan"))
    return np.array(values.to_numpy(zero_copy_only=False), np.float64)


def times_us(column: pa.Array | pa.ChunkedArray) -> Ints:
    """Timestamps of any unit and zone as int64 microseconds UTC; a column without a zone is taken as UTC."""
    array = plain(column)
    if not pa.types.is_timestamp(array.type):
        msg = f"a time column has type {array.type}; it must be a timestamp"
        raise SchemaError(msg)
    if array.null_count:
        msg = (
            f"a time column has {array.null_count} nulls; every event and every row asked for needs its time"
        )
        raise SchemaError(msg)
    if array.type.unit != "us":
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    return np.asarray(array.view(pa.int64()).to_numpy(), np.int64)


def _utf8(array: pa.Array) -> tuple[Ints, Bytes]:
    """Offsets (int64, n + 1) and bytes of a string array. A null is an empty string."""
    if len(array) == 0:
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1].astype(
        np.int64
    )
    data = (
        np.frombuffer(data_buffer, np.uint8)
        if data_buffer is not None and data_buffer.size
        else np.zeros(0, np.uint8)
    )
    return offsets, data


def _is_valid(column: pa.Array) -> npt.NDArray[np.bool_]:
    if not column.null_count:
        return np.ones(len(column), np.bool_)
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False))


def text_hash(text: str | None) -> int:
    """The hash of one value of a column of `ViewSpec.hashed`; 0 for null."""
    if text is None:
        return 0
    return int(_hash_text(np.frombuffer(text.encode(), np.uint8)))


def id_words(text: str) -> tuple[int, int]:
    """The two words of one event id, whose order is the order of the strings."""
    words = np.empty((1, 2), np.int64)
    data = text.encode()
    _ordered_ids(np.array([0, len(data)], np.int64), np.frombuffer(data, np.uint8), words)
    return int(words[0, 0]), int(words[0, 1])


def _hash_keys(column: pa.Array) -> Ints:
    """The hashes of keys of one component."""
    return _keys([_utf8(_as_text(column))], len(column)).hashes


def _hash_values(column: pa.Array) -> Ints:
    offsets, data = _utf8(_as_text(column))
    hashes = np.empty((len(column), 2), np.int64)
    _hash_bytes(offsets, data, hashes)
    value = hashes[:, 0]
    value[value == 0] = 1  # 0 stands for null
    value[~_is_valid(column)] = 0
    return np.ascontiguousarray(value)


def _keys(columns: Sequence[tuple[Ints, Bytes]], n: int) -> Keys:
    """The keys of n rows, of the offsets and bytes of each component."""
    lengths = np.zeros(n, np.int64)
    for offsets, _ in columns:
        lengths += np.diff(offsets) + 8
    starts = np.zeros(n + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    data = np.empty(int(starts[-1]), np.uint8)
    at = starts[:-1].copy()
    for offsets, text in columns:
        _write_key_part(at, offsets, text, data)
    hashes = np.empty((n, 2), np.int64)
    _hash_bytes(starts, data, hashes)
    return Keys(hashes, starts, data)


@nb.njit(cache=True)
def _write_key_part(at: Ints, offsets: Ints, text: Bytes, out: Bytes) -> None:
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


@nb.njit(cache=True, inline="always")
def _mix(h: Any) -> Any:
    h ^= h >> np.uint64(33)
    h *= _MIX_1
    h ^= h >> np.uint64(33)
    h *= _MIX_2
    return h ^ (h >> np.uint64(33))


@nb.njit(cache=True, inline="always")
def _word(data: Any, start: int, end: int) -> Any:
    """Up to eight bytes as a big-endian word, zero-padded at the end."""
    word = np.uint64(0)
    for k in range(8):
        byte = np.uint64(data[start + k]) if start + k < end else np.uint64(0)
        word = (word << np.uint64(8)) | byte
    return word


@nb.njit(cache=True)
def _hash(data: Bytes, start: int, end: int) -> tuple[Any, Any]:
    """128 bits over the bytes: two differently seeded multiply-mix chains (the finaliser of MurmurHash3)."""
    high, low = _SEED_HIGH ^ np.uint64(end - start), _SEED_LOW
    for at in range(start, end, 8):
        word = _word(data, at, end)
        high = _mix(high ^ word)
        low = _mix(low + word * _SEED_HIGH)
    return _mix(high), _mix(low)


@nb.njit(cache=True)
def _hash_bytes(offsets: Ints, data: Bytes, out: Ints) -> None:
    for i in range(len(out)):
        high, low = _hash(data, offsets[i], offsets[i + 1])
        out[i, 0], out[i, 1] = np.int64(high), np.int64(low)


@nb.njit(cache=True)
def _hash_text(data: Bytes) -> Any:
    """As `_hash_values` has it: never 0, which stands for null."""
    value = np.int64(_hash(data, 0, len(data))[0])
    return value if value != 0 else np.int64(1)


@nb.njit(cache=True)
def _nibble(byte: int) -> int:
    if 48 <= byte <= 57:
        return byte - 48
    if 97 <= byte <= 102:
        return byte - 87
    return -1


@nb.njit(cache=True)
def _ordered_ids(offsets: Ints, data: Bytes, out: Ints) -> None:
    """Ids as two int64 words whose order is the order of the strings, for ids of up to 16 bytes and for lower-case UUIDs.

    Longer ids of another shape compare by their first eight bytes and then by a hash of the whole: still one total order that
    does not depend on arrival.
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
