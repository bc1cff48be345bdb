"""Derived columns, as programs: what is computed of an event, in order, when it is accepted. One value per event.

A step is a context (`contexts`), read as of the event and then given the event, or a column computed from what is there by
then: the event's own columns, joined ones, features of contexts above it, and derived columns above it. So a feature may be built
on a feature, however deep, in one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from feature_repo.enrichment import functions as f
from feature_repo.enrichment.contexts import (
    ACCOUNT_AMOUNTS,
    ACCOUNT_DEVICE,
    ACCOUNT_PAYEE,
    ACCOUNT_POSITION,
    PAYMENT_STATEMENTS,
)
from feature_repo.windows.spec import ViewSpec


@dataclass(frozen=True)
class Derived:
    """One column: `function` of float64 arrays, NaN = null; times come as microseconds UTC. Its type is the log schema's."""

    name: str
    inputs: tuple[str, ...]
    function: Callable[..., f.Floats]


Step = ViewSpec | Derived

PAYMENT_PROGRAM: Final[tuple[Step, ...]] = (
    Derived("home_distance_m", ("latitude", "longitude", "home_latitude", "home_longitude"), f.distance_m),
    Derived("is_far", ("home_distance_m",), f.is_far),
    Derived("local_hour", ("event_timestamp", "home_longitude"), f.local_hour),
    Derived("is_night", ("local_hour",), f.is_night),
    ACCOUNT_POSITION,
    Derived(
        "previous_distance_m",
        ("latitude", "longitude", "account_latitude_last", "account_longitude_last"),
        f.distance_m,
    ),
    Derived("speed_kmh", ("previous_distance_m", "account_seconds_since_position"), f.speed_kmh),
    ACCOUNT_DEVICE,
    Derived("is_new_device", ("device_payment_count_30d",), f.is_new),
    ACCOUNT_PAYEE,
    Derived("is_new_payee", ("payee_payment_count_30d",), f.is_new),
    ACCOUNT_AMOUNTS,
    Derived("is_outsized", ("amount", "account_amount_p95_30d", "account_amount_count_30d"), f.is_outsized),
)

LABEL_PROGRAM: Final[tuple[Step, ...]] = (
    PAYMENT_STATEMENTS,
    Derived("fraud_change", ("is_fraud", "last_is_fraud"), f.fraud_change),
    Derived("known_change", ("statements_before",), f.known_change),
    Derived("fraud_reported", ("fraud_change",), f.fraud_reported),
)
