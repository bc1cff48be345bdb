"""Convert columns of a foreign file to columns of a stream, a batch at a time. Pure: no file is read or written here.

A value that cannot be read becomes null and its row is rejected: row number, column, value and reason.
"""

from datetime import timedelta
from string import Formatter
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.declare.stream import TIMESTAMP
from flows.bring.mapping import ROW, UNIT_US, Delay, Time, Value

TRUE: Final = ("1", "1.0", "true", "t", "yes", "y")
FALSE: Final = ("0", "0.0", "false", "f", "no", "n", "")


class Reject(NamedTuple):
    """A row that cannot become an event: its number in the file, the column, the value, and why."""

    row: int
    column: str
    value: str | None
    reason: str


class Batch:
    """Some rows of the file, and the rejects among them."""

    def __init__(self, table: pa.Table, first_row: int) -> None:
        """`first_row` is the number of the first row in the file, from 0."""
        self.table = table
        self.first_row = first_row
        self.rejects: list[Reject] = []

    def __len__(self) -> int:
        """Count of rows."""
        return int(self.table.num_rows)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row numbers in the file, from 0."""
        return np.arange(self.first_row, self.first_row + len(self), dtype=np.int64)

    def has(self, columns: set[str]) -> bool:
        """Whether the file has all of these columns."""
        return columns <= set(self.table.column_names)

    def text(self, value: Value) -> Any:
        """Evaluate a text column; nulls where the source is empty."""
        if value.constant is not None:
            return pa.repeat(pa.scalar(_as_text(value.constant)), len(self))
        result = self._template(value) if value.template is not None else self._raw_text(str(value.column))
        if value.values is not None:
            result = self._look_up(result, value)
        if value.prefix:
            result = pc.binary_join_element_wise(value.prefix, result, "")
        return result

    def number(self, value: Value) -> Any:
        """Evaluate a number column (float64)."""
        if value.constant is not None:
            result = pa.repeat(pa.scalar(float(value.constant)), len(self))
        elif value.values is not None or value.template is not None:
            result = self._cast(self.text(value), pa.float64(), str(value.column), "is not a number")
        else:
            source = self._column(str(value.column))
            textual = pa.types.is_string(source.type) or pa.types.is_large_string(source.type)
            source = self._raw_text(str(value.column)) if textual else source
            result = self._cast(source, pa.float64(), str(value.column), "is not a number")
        finite = pc.is_finite(result)
        result = pc.if_else(finite, result, pa.scalar(None, pa.float64()))
        return pc.divide(result, value.divide) if value.divide else result

    def flag(self, value: Value) -> npt.NDArray[np.bool_]:
        """Evaluate a yes-or-no column; empty is no, other words reject the row."""
        words = pc.utf8_lower(pc.fill_null(self.text(value), ""))
        true = pc.is_in(words, pa.array(TRUE))
        known = pc.or_(true, pc.is_in(words, pa.array(FALSE)))
        self._reject(pc.invert(known), words, value.column or "is_fraud", "is neither yes nor no")
        return np.asarray(true.to_numpy(zero_copy_only=False), dtype=np.bool_)

    def boolean(self, value: Value) -> Any:
        """Evaluate a column of truth values; empty is null, other words reject the row."""
        words = pc.utf8_lower(self.text(value))
        true, false = (pc.is_in(words, pa.array(known)) for known in (TRUE, FALSE))
        self._reject(
            pc.and_(pc.is_valid(words), pc.invert(pc.or_(true, false))),
            words,
            str(value.column),
            "is neither yes nor no",
        )
        return pc.if_else(pc.is_valid(words), true, pa.scalar(None, pa.bool_()))

    def integer(self, value: Value) -> Any:
        """Evaluate a column of whole numbers (int64)."""
        numbers = self.number(value)
        whole = pc.equal(numbers, pc.round(numbers))
        self._reject(
            pc.invert(pc.fill_null(whole, True)), numbers, str(value.column), "is not a whole number"
        )
        return pc.if_else(whole, numbers, pa.scalar(None, pa.float64())).cast(pa.int64())

    def column(self, kind: pa.DataType, value: Value) -> Any:
        """Evaluate a column of an Arrow type other than a timestamp."""
        if pa.types.is_boolean(kind):
            return self.boolean(value)
        if pa.types.is_integer(kind):
            return self.integer(value)
        return self.number(value) if pa.types.is_floating(kind) else self.text(value)

    def time(self, value: Time) -> Any:
        """Evaluate an instant to timestamp[us, UTC]; `spread` is left to the caller, who knows all rows."""
        source = self._column(value.column)
        if value.unit:
            numbers = self.number(Value(column=value.column))
            start = (value.start - Time.model_fields["start"].default) // timedelta(microseconds=1)
            return pc.add(
                pc.round(pc.multiply(numbers, float(UNIT_US[value.unit]))).cast(pa.int64()), start
            ).cast(TIMESTAMP)
        if pa.types.is_timestamp(source.type) or pa.types.is_date(source.type):
            return _to_utc(source, value.timezone)
        text = self._raw_text(value.column)
        if value.format:
            read = pc.strptime(text, format=value.format, unit="us", error_is_null=True)
            self._reject(pc.and_(pc.is_valid(text), pc.is_null(read)), text, value.column, "is not a time")
            return _to_utc(read, value.timezone)
        zoned = pc.fill_null(pc.match_substring_regex(text, r"\d(Z|[+-]\d\d:?\d\d)$"), fill_value=False)
        nothing = pa.scalar(None, pa.string())
        local = self._cast(
            pc.if_else(zoned, nothing, text), pa.timestamp("us"), value.column, "is not a time"
        )
        exact = self._cast(pc.if_else(zoned, text, nothing), TIMESTAMP, value.column, "is not a time")
        return pc.coalesce(exact, _to_utc(local, value.timezone))

    def require(self, name: str, array: Any) -> None:
        """Reject the rows in which a column that must not be null is null."""
        already = {reject.row for reject in self.rejects}
        for at in np.flatnonzero(pc.is_null(array).to_numpy(zero_copy_only=False)).tolist():
            if self.first_row + at not in already:
                self.rejects.append(Reject(self.first_row + at, name, None, "is empty"))

    def kept(self) -> Any:
        """Find the rows that were not rejected, by index in the batch."""
        bad = np.array(sorted({reject.row - self.first_row for reject in self.rejects}), dtype=np.int64)
        return pa.array(np.setdiff1d(np.arange(len(self)), bad, assume_unique=True))

    def _column(self, name: str) -> Any:
        column = self.table[name].combine_chunks()
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

    def _raw_text(self, name: str) -> Any:
        text = pc.utf8_trim_whitespace(self._column(name).cast(pa.string()))
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)

    def _template(self, value: Value) -> Any:
        parts: list[Any] = []
        for literal, name, _, _ in Formatter().parse(str(value.template)):
            parts.append(literal)
            if name is not None:
                parts.append(pa.array(self.rows).cast(pa.string()) if name == ROW else self._raw_text(name))
        return pc.binary_join_element_wise(*parts, "")

    def _look_up(self, text: Any, value: Value) -> Any:
        table = value.values or {}
        at = pc.index_in(text, pa.array(list(table), pa.string()))
        found = pc.take(pa.array(list(table.values()), pa.string()), at)
        missing = pc.and_(pc.is_null(at), pc.is_valid(text))
        if value.otherwise is not None:
            return pc.if_else(pc.is_null(at), value.otherwise, found)
        self._reject(missing, text, str(value.column), "is not among the mapping's values")
        return found

    def _cast(self, array: Any, kind: Any, column: str, reason: str) -> Any:
        result, bad = _cast_or_null(array, kind)
        self._reject(bad, array, column, reason)
        return result

    def _reject(self, bad: Any, values: Any, column: str, reason: str) -> None:
        for at in np.flatnonzero(np.asarray(bad)).tolist():
            self.rejects.append(Reject(self.first_row + at, column, str(values[at].as_py()), reason))


def delays(delay: Delay, n: int, first_row: int) -> npt.NDArray[np.int64]:
    """Microseconds from payment to label for n rows; the same rows always get the same."""
    most = delay.max // timedelta(microseconds=1)
    if delay.fixed is not None:
        return np.full(n, min(delay.fixed // timedelta(microseconds=1), most), np.int64)
    median = (delay.median or timedelta(0)) / timedelta(microseconds=1)
    drawn = median * np.exp(delay.sigma * np.random.default_rng([delay.seed, first_row]).standard_normal(n))
    return np.minimum(drawn, most).astype(np.int64)


def _cast_or_null(array: Any, kind: Any) -> tuple[Any, npt.NDArray[np.bool_]]:
    """Return the cast array, null where a value does not fit, and a mask of those; bisects: Arrow fails as a whole."""
    bad = np.zeros(len(array), np.bool_)

    def attempt(low: int, high: int) -> list[Any]:
        part = array.slice(low, high - low)
        try:
            return [part.cast(kind, safe=False)]
        except pa.ArrowInvalid:
            if high - low == 1:
                bad[low] = True
                return [pa.nulls(1, kind)]
            middle = (low + high) // 2
            return attempt(low, middle) + attempt(middle, high)

    return pa.concat_arrays(attempt(0, len(array))), bad


def _to_utc(array: Any, timezone: str) -> Any:
    if pa.types.is_timestamp(array.type) and array.type.tz is not None:
        return array.cast(TIMESTAMP, safe=False)
    local = array.cast(pa.timestamp("us"), safe=False)
    # When clocks change, a local hour exists twice or not at all; its rows are kept all the same.
    zoned = pc.assume_timezone(local, timezone=timezone, ambiguous="earliest", nonexistent="latest")
    return zoned.cast(TIMESTAMP)


def _as_text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
