"""The functions of derived columns: one value per payment or label, float64 arrays in and out, NaN is null.

The flow calls them for blocks of thousands of events, on-demand views for the one payment being scored.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from pyproj import Geod

Floats = npt.NDArray[np.float64]

FAR_M: Final = 50_000.0
"""Distance from home from which on a payment is far, in metres."""
FASTEST_KMH: Final = 100_000.0
"""Upper limit of implied speeds; two payments at one instant in two places would have an infinite one."""
OUTSIZED: Final = 2.0
"""A payment is outsized above this many times the upper quantile of the account's past amounts."""
OUTSIZED_AFTER: Final = 5.0
"""Past amounts an account must have before a payment can be outsized."""

EARTH: Final = Geod(ellps="WGS84")
HOUR_US: Final = 3_600e6
DAY_US: Final = 86_400e6


def distance_m(
    latitude: Floats, longitude: Floats, other_latitude: Floats, other_longitude: Floats
) -> Floats:
    """Geodesic distance on the WGS 84 ellipsoid in metres (Karney's algorithm, better than a millimetre)."""
    made = np.full(len(latitude), np.nan)
    known = ~np.isnan(latitude + longitude + other_latitude + other_longitude)
    if known.any():
        made[known] = EARTH.inv(
            longitude[known], latitude[known], other_longitude[known], other_latitude[known]
        )[2]
    return made


def speed_kmh(distance: Floats, seconds: Floats) -> Floats:
    """Speed implied by a distance (m) and the seconds since; less than a second counts as one."""
    return np.minimum(distance / np.maximum(seconds, 1.0) * 3.6, FASTEST_KMH)


def is_far(home_distance: Floats) -> Floats:
    """Return 1.0 beyond `FAR_M` from home, else 0.0."""
    return _flag(home_distance > FAR_M, home_distance)


def local_hour(time_us: Floats, home_longitude: Floats) -> Floats:
    """Hour of the day (0 to 23) at home by the sun: UTC and an hour for every 15 degrees east, to the nearest."""
    hour: Floats = np.mod(np.floor(time_us / HOUR_US) + np.round(home_longitude / 15.0), 24.0)
    return hour


def is_night(hour: Floats) -> Floats:
    """Return 1.0 from 22 to 6, else 0.0."""
    return _flag((hour >= 22.0) | (hour < 6.0), hour)


def is_new(count: Floats) -> Floats:
    """Return 1.0 where the count is 0, else 0.0."""
    return _flag(count == 0.0, count)


def is_outsized(amount: Floats, upper_quantile: Floats, count: Floats) -> Floats:
    """Return 1.0 above `OUTSIZED` times the upper quantile of `OUTSIZED_AFTER` or more past amounts, else 0.0."""
    outsized: Floats = ((count >= OUTSIZED_AFTER) & (amount > OUTSIZED * upper_quantile)).astype(np.float64)
    return outsized


def ratio(of: Floats, over: Floats) -> Floats:
    """Return the quotient, null where the divisor is 0."""
    quotient: Floats = np.divide(of, over, out=np.full(len(of), np.nan), where=over != 0.0)
    return quotient


def days_between(start_us: Floats, end_us: Floats) -> Floats:
    """Return the days from one time to another."""
    days: Floats = (end_us - start_us) / DAY_US
    return days


def fraud_change(is_fraud: Floats, last_is_fraud: Floats) -> Floats:
    """Return the change a statement makes to the number of known frauds: 1, -1 (a report withdrawn) or 0."""
    change: Floats = is_fraud - np.nan_to_num(last_is_fraud)
    return change


def known_change(statements_before: Floats) -> Floats:
    """1.0 for the first statement about a payment: from then on its outcome is known."""
    first: Floats = (statements_before == 0.0).astype(np.float64)
    return first


def fraud_reported(change: Floats) -> Floats:
    """1.0 where a payment became a known fraud, else null."""
    return np.where(change == 1.0, 1.0, np.nan)


def _flag(truth: npt.NDArray[np.bool_], known: Floats) -> Floats:
    """Return a mask as 1.0 and 0.0, null where `known` is null."""
    return np.where(np.isnan(known), np.nan, truth.astype(np.float64))
