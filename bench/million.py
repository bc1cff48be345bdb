"""A home with a long log: many accounts with ten payments of the last month each, as an earlier run over files left it.

`bench.restart` starts flows on it and `bench.memory` folds it. Payments come in waves; in each, every account has one
payment in random order, so that an account's state grows between those of all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import w1, w1_stream
from bench.w1 import _names as names_of
from flows.log.epoch_files import OFFSETS_KEY, offset_ranges

ACCOUNTS: Final = 1_000_000
EACH: Final = 10
PART: Final = "files-million"
PARTITION: Final = "file:million"
ROWS_A_FILE: Final = 250_000


def payments(accounts: int = ACCOUNTS, each: int = EACH, seed: int = 3) -> Iterator[pa.Table]:
    """The payments in time order, some at a time, in the schema of the stream."""
    draw = np.random.default_rng(seed)
    total = accounts * each
    for wave in range(each):
        order = draw.permutation(accounts)
        for first in range(0, accounts, ROWS_A_FILE):
            some = order[first : first + ROWS_A_FILE]
            at = wave * accounts + first + np.arange(len(some))
            times = w1.START_US + at * (w1.SPAN_US // total)
            yield pa.table(
                {
                    "event_id": names_of("p", at, 10),
                    "event_timestamp": pa.array(times).cast(pa.timestamp("us", tz="UTC")),
                    "account_id": names_of("a", some, 7),
                    "merchant_id": names_of("m", draw.integers(0, w1.MERCHANTS, len(some)), 5),
                    "amount": np.round(draw.lognormal(3, 1, len(some)), 2),
                }
            )


def write_log(folder: Path, accounts: int = ACCOUNTS, each: int = EACH) -> int:
    """The log of them, as files of a run that has ended; returns the rows."""
    folder.mkdir(parents=True, mode=0o700)
    rows = 0
    for number, some in enumerate(payments(accounts, each)):
        logged = with_log_columns(some, rows)
        pq.write_table(logged, folder / f"{PART}-{number:010d}.parquet", compression="zstd")
        rows += len(some)
    return rows


def with_log_columns(some: pa.Table, first: int) -> pa.Table:
    """Payments as the log keeps them; `first` is the offset of the first of them."""
    n = len(some)
    made = {
        "created_timestamp": some["event_timestamp"],
        "source_partition": pa.array([PARTITION]).take(pa.array(np.zeros(n, np.int64))),
        "source_offset": pa.array(np.arange(first, first + n)),
    }
    schema = w1_stream.STREAM.log_schema
    columns = [
        made[f.name]
        if f.name in made
        else some[f.name]
        if f.name in some.column_names
        else pa.nulls(n, f.type)
        for f in schema
    ]
    found = pa.table(columns, schema=schema)
    return found.replace_schema_metadata({OFFSETS_KEY: json.dumps(offset_ranges(found)).encode()})
