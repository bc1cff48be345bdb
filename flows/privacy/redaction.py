"""How the detail of a dead letter may speak of a value: it is read by more people than the payload is.

With a key, a value is repeated only where the log could hold it in clear anyway: a number or a truth value in a numeric
column. All else is described ("a text of 12 characters"), personal columns are not even that, and a text never is repeated:
producers that mix up columns put names where a currency belongs. Who holds the key reads the value in the payload
(`python -m flows.dead_letters --show`). Without a key (`off`) the data is pseudonymous, and values are show, but not those of
columns that no `off` makes harmless.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pyarrow as pa

from feature_repo.privacy import Pseudonyms
from feature_repo.privacy.policy import lost_without_key
from flows.streams import EventStream

Describe = Callable[[str, object], str]
"""(column, value) in, text for a detail out."""

PERSONAL: Final = "(personal)"
_SHOWN: Final = 80


def show(column: str, value: object) -> str:
    """The value, cut: for data that holds nothing personal.

    >>> show("type", "GIFT")
    "'GIFT'"
    """
    del column
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def describer(stream: EventStream, pseudonyms: Pseudonyms) -> Describe:
    """What details of a stream may say."""
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
    """What kind of value it is; a number of a numeric column as it is.

    >>> describe_kind("currency", "Smith", clear=False), describe_kind("amount", -1.5, clear=True)
    ('a text of 5 characters', '-1.5')
    """
    if value is None or (clear and isinstance(value, bool | int | float)):
        return show(column, value)
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    return f"a {type(value).__name__}"
