"""Customers: one row per version of an account holder, true from its `event_timestamp` on.

A changelog: every event is the whole row anew. A version is valid until the next one of its account; a correction is
a later row with the time from which it is true. A deletion says that the account is closed. Where somebody lives is
kept to the degree of a coordinate, because distances are computed from it; permissions decide who may read it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from feature_repo.declare.stream import (
    DROP,
    KEY_LENGTH,
    PARTY,
    PSEUDONYM,
    EventStream,
    between,
    length,
    matches,
    number,
    one_of,
    text,
    time,
)

SEGMENTS: Final = ("student", "standard", "premium", "business")

CUSTOMERS: Final = EventStream(
    name="customers",
    grain="one row per version of a customer",
    partition_by="account_id",
    changelog=True,
    columns=(
        text(
            "event_id",
            "Identity of the version, unique in its stream; a repeated id is a duplicate",
            checks=[KEY_LENGTH],
        ),
        time("event_timestamp", "From when on this version is true"),
        text("account_id", "The account", personal=PARTY, checks=[KEY_LENGTH]),
        number(
            "home_latitude",
            "Where the holder lives, WGS 84, -90 to 90",
            unit="degrees north",
            null="not known",
            checks=[between(-90, 90)],
        ),
        number(
            "home_longitude",
            "Where the holder lives, WGS 84, -180 to 180",
            unit="degrees east",
            null="not known",
            checks=[between(-180, 180)],
        ),
        text(
            "email",
            "E-mail address",
            null="not known",
            personal=PSEUDONYM,
            checks=[length(3, 320, "the longest address RFC 3696 allows")],
        ),
        text(
            "phone", "Telephone number, E.164", null="not known", personal=PSEUDONYM, checks=[length(1, 32)]
        ),
        text("name", "Name of the holder", null="not known", personal=DROP, checks=[length(1, 256)]),
        text(
            "birth_date",
            "Date of birth",
            unit="ISO 8601 date",
            null="not known",
            personal=DROP,
            checks=[
                matches("^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$", "ISO 8601 date"),
                length(10, 10, "Python's $ accepts a final newline, this does not"),
            ],
        ),
        text("segment", "One of SEGMENTS", null="not known", checks=[one_of(SEGMENTS)]),
        time("opened_at", "When the account was opened", null="not known"),
    ),
    feature_names=MappingProxyType({"segment": "customer_segment", "opened_at": "customer_opened_at"}),
)
