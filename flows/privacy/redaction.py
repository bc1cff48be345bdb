"""Describe values in the detail of a dead letter without personal data: more people read the detail than the payload.

With a key, a value is repeated only where the log may hold it in clear: a number or a truth value in a numeric column.
Texts are described ("a text of 12 characters") and never repeated, since producers that mix up columns put names where
a currency belongs. Values of personal columns are not described at all. A holder of the key reads the value in the
payload (`python -m flows.dead_letters --show`). Without a key (`off`) the data is pseudonymous already, and values are
repeated, except those of columns that are personal all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pyarrow as pa

from feature_repo.privacy import Pseudonyms
from feature_repo.privacy.policy import lost_without_key
from flows.streams import EventStream

Describe = Callable[[str, object], str]
"""Takes (column, value), returns the text for a detail."""

PERSONAL: Final = "(personal)"
_SHOWN: Final = 80


def show(column: str, value: object) -> str:
    """Return the value, shortened: for data without personal values.

    >>> show("type", "GIFT")
    "'GIFT'"
    """
    del column
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def describer(stream: EventStream, pseudonyms: Pseudonyms) -> Describe:
    """Return the function that describes values of a stream."""
    if pseudonyms.keyed:
        hidden = set(stream.personal)
        numeric = {
            f.name
            for f in stream.schema
            if pa.types.is_floating(f.type) or pa.types.is_integer(f.type) or pa.types.is_boolean(f.type)
        }
        return lambda column, value: (
            PERSONAL if column in hidden else describe_kind(column, value, clear=column in numeric)
        )
    lost = lost_without_key(stream.personal)
    return lambda column, value: PERSONAL if column in lost else show(column, value)


def describe_kind(column: str, value: object, *, clear: bool) -> str:
    """Return the kind of a value, or the value itself if it is a number and `clear`.

    >>> describe_kind("currency", "Smith", clear=False), describe_kind("amount", -1.5, clear=True)
    ('a text of 5 characters', '-1.5')
    """
    if value is None or (clear and isinstance(value, bool | int | float)):
        return show(column, value)
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    return f"a {type(value).__name__}"
