"""Events as flat arrays. One row per event of a block, in the block's order; times are int64 UTC microseconds.

Strings do not reach the kernels that fold and read: an id becomes two int64 words that sort like the string, a key or a
distinct value becomes a hash. Every column is converted once per block, however many views read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import SchemaError
from feature_repo.windows.arrays import Bytes, Floats, Ints
from feature_repo.windows.kernels.exact_sum import LIMIT
from feature_repo.windows.kernels.hashing import hash_bytes, hash_text, order_ids, write_key_part
from feature_repo.windows.kernels.words import EVENT_HASHED, EVENT_ID_HIGH, EVENT_TIME
from feature_repo.windows.spec import ViewSpec

_FEW: Final = 32
"""Up to this many values are converted one by one (see `numbers`)."""


@dataclass(frozen=True)
class Keys:
    """The entity key of every row.

    Holds its 128-bit hash (int64 [n, 2]) and its bytes, row i at `data[offsets[i]:offsets[i + 1]]`.

    The bytes are the value part of Feast's serialised entity key (type, length, value; join keys in sorted order), so
    the online store's key is a constant prefix, these bytes, and the project. Keys with the same hash are taken as
    equal.
    """

    hashes: Ints
    offsets: Ints
    data: Bytes

    def __len__(self) -> int:
        return len(self.hashes)

    def shards(self, n_shards: int) -> Ints:
        """Return the shard of every row (int64 [n], 0 <= shard < n_shards), which depends on its key alone."""
        return (self.hashes[:, 0].view(np.uint64) % np.uint64(n_shards)).astype(np.int64)


@dataclass(frozen=True)
class Events:
    """Per event what a row of an exact view holds.

    `ints`, int64 [n, 3 + hashed columns]: time (us), id (two words), hashes (null = 0).
    `floats`, float64 [n, value columns]: null = NaN.
    """

    ints: Ints
    floats: Floats

    def __len__(self) -> int:
        return len(self.ints)

    def take(self, rows: npt.NDArray[Any]) -> Events:
        """Return the events at `rows` (indices, or a mask)."""
        return Events(self.ints[rows], self.floats[rows])


class BlockColumns:
    """The columns of one Arrow block (`RecordBatch` or `Table`), each converted at most once.

    The methods raise `SchemaError` that names the column when it is missing or cannot be converted.
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
        """Return which rows (bool [n]) have a key: none of its components is null. Other rows are in no window."""
        mask = np.ones(self._block.num_rows, np.bool_)
        for name in join_keys:
            mask &= self._per_distinct(name, _is_valid)
        return mask

    def keys(self, join_keys: tuple[str, ...]) -> Keys:
        """Return the key of every row.

        A null component has the bytes of an empty string: leave such rows out (`has_keys`).
        """
        return _keys([self._utf8(name) for name in join_keys], self._block.num_rows)

    def key_hashes(self, join_keys: tuple[str, ...]) -> Ints:
        """Return the hashes of `keys`, int64 [n, 2]."""
        if len(join_keys) != 1:
            return self.keys(join_keys).hashes
        return self._per_distinct(join_keys[0], _hash_keys)

    def events(self, spec: ViewSpec) -> Events:
        """Return what a view reads of every row."""
        n = self._block.num_rows
        ints = np.empty((n, EVENT_HASHED + len(spec.hashed)), np.int64)
        ints[:, EVENT_TIME] = self.times("event_timestamp")
        ints[:, EVENT_ID_HIGH:EVENT_HASHED] = self.ids(spec.id_column)
        for i, name in enumerate(spec.hashed):
            ints[:, EVENT_HASHED + i] = self.hashed(name)
        floats = np.empty((n, len(spec.values)), np.float64)
        for i, name in enumerate(spec.values):
            floats[:, i] = self.values(name)
        return Events(ints, floats)

    def values(self, name: str) -> Floats:
        """Return a column of `ViewSpec.values`, float64 [n], null = NaN; so is a value beyond `exact_sum.LIMIT`."""
        return self._presence(name[1:]) if name.startswith("?") else self._values(name)

    def times(self, name: str) -> Ints:
        """Return a timestamp column as int64 [n] microseconds UTC."""
        if name not in self._times:
            self._times[name] = times_us(self._column(name))
        return self._times[name]

    def ids(self, name: str) -> Ints:
        """Return an id column as int64 [n, 2], ordered like the strings."""
        if name not in self._ids:
            offsets, data = self._utf8(name)
            self._ids[name] = np.empty((self._block.num_rows, 2), np.int64)
            order_ids(offsets, data, self._ids[name])
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
        """Return a column of `ViewSpec.hashed` as int64 [n], null = 0."""
        if name not in self._hashes:
            self._hashes[name] = self._per_distinct(name, _hash_values)
        return self._hashes[name]

    def _per_distinct(self, name: str, function: Callable[[pa.Array], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Apply a function to every value of a column.

        It is applied to each distinct value once if the column is dictionary-encoded.
        """
        column = self._stored(name)
        if not pa.types.is_dictionary(column.type):
            return function(self._column(name))
        parts = [function(plain(pa.array([], column.type.value_type)))]
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            distinct, places = plain(chunk.dictionary), chunk.indices
            if places.null_count:
                places = places.fill_null(len(distinct))
                distinct = pa.concat_arrays([distinct, pa.nulls(1, distinct.type)])
            few = len(distinct) <= len(places)
            parts.append(
                function(distinct).take(places.to_numpy(), axis=0) if few else function(plain(chunk))
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
    """Return a column as one contiguous array, with dictionaries decoded and large strings cast to strings."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    return array


def _as_text(column: pa.Array) -> pa.Array:
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def numbers(column: pa.Array) -> Floats:
    """Return a column of numbers or booleans as float64 [n], null = NaN; a copy.

    Raises `pa.ArrowInvalid` or `pa.ArrowNotImplementedError` for values that are not numbers. A call of an Arrow
    function costs tens of microseconds, so the values of a small block are converted one by one.
    """
    if column.type == pa.float64() or pa.types.is_boolean(column.type):
        if len(column) <= _FEW:
            return np.array([np.nan if v is None else v for v in column.to_pylist()], np.float64)
        if not column.null_count and column.type == pa.float64():
            return np.array(column.to_numpy(), np.float64)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan"))
    return np.array(values.to_numpy(zero_copy_only=False), np.float64)


def times_us(column: pa.Array | pa.ChunkedArray) -> Ints:
    """Return timestamps of any unit and zone as int64 [n] microseconds UTC; a column without a zone is taken as UTC.

    Raises `SchemaError` for a column of another type or with nulls.
    """
    array = plain(column)
    if not pa.types.is_timestamp(array.type):
        msg = f"a time column has type {array.type}; it must be a timestamp"
        raise SchemaError(msg)
    if array.null_count:
        msg = f"a time column has {array.null_count} nulls; every event and every requested row needs a time"
        raise SchemaError(msg)
    if array.type.unit != "us":
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    return np.asarray(array.view(pa.int64()).to_numpy(), np.int64)


def _utf8(array: pa.Array) -> tuple[Ints, Bytes]:
    """Return offsets (int64 [n + 1]) and bytes of a string array. A null is an empty string."""
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
    """Return the hash of one value of a column of `ViewSpec.hashed`; 0 for None."""
    if text is None:
        return 0
    return int(hash_text(np.frombuffer(text.encode(), np.uint8)))


def id_words(text: str) -> tuple[int, int]:
    """Return one id as the two words of `BlockColumns.ids`."""
    words = np.empty((1, 2), np.int64)
    data = text.encode()
    order_ids(np.array([0, len(data)], np.int64), np.frombuffer(data, np.uint8), words)
    return int(words[0, 0]), int(words[0, 1])


def _hash_keys(column: pa.Array) -> Ints:
    """Return the hashes of keys of one component."""
    return _keys([_utf8(_as_text(column))], len(column)).hashes


def _hash_values(column: pa.Array) -> Ints:
    offsets, data = _utf8(_as_text(column))
    hashes = np.empty((len(column), 2), np.int64)
    hash_bytes(offsets, data, hashes)
    value = hashes[:, 0]
    value[value == 0] = 1  # 0 stands for null
    value[~_is_valid(column)] = 0
    return np.ascontiguousarray(value)


def _keys(columns: Sequence[tuple[Ints, Bytes]], n: int) -> Keys:
    """Return the keys of n rows from the offsets and bytes of each component."""
    lengths = np.zeros(n, np.int64)
    for offsets, _ in columns:
        lengths += np.diff(offsets) + 8
    starts = np.zeros(n + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    data = np.empty(int(starts[-1]), np.uint8)
    at = starts[:-1].copy()
    for offsets, text in columns:
        write_key_part(at, offsets, text, data)
    hashes = np.empty((n, 2), np.int64)
    hash_bytes(starts, data, hashes)
    return Keys(hashes, starts, data)
