"""One row per version of a merchant: what is true of it from `event_timestamp` on (UTC us).

A changelog: every event is the whole row anew, a deletion is a row with `deleted` true and nothing else. A version is
valid until the next one of its merchant.

`MERCHANT` is what a source hands to the flow, `MERCHANT_LOG` what the event log keeps. Fields are physically nullable for
the reasons given in `feature_repo.schemas.payment`; `REQUIRED` names the columns that are never null.
"""

from typing import Final

import pyarrow as pa

from feature_repo.privacy.policy import PSEUDONYM
from feature_repo.schemas.customer import DELETED, EVENT_TIMESTAMP
from feature_repo.schemas.payment import EVENT_ID, LOG_COLUMNS, TIMESTAMP, column

RISK_TIERS: Final = ("low", "medium", "high")

MERCHANT_ID: Final = column("merchant_id", pa.string(), meaning="The merchant")
CATEGORY: Final = column("category", pa.string(), meaning="What it sells, such as grocery", null="not known")
LATITUDE: Final = column(
    "latitude",
    pa.float64(),
    meaning="Where it is, WGS 84, -90 to 90",
    unit="degrees north",
    null="not known, or no place",
)
LONGITUDE: Final = column(
    "longitude",
    pa.float64(),
    meaning="Where it is, WGS 84, -180 to 180",
    unit="degrees east",
    null="not known, or no place",
)
RISK_TIER: Final = column("risk_tier", pa.string(), meaning="One of RISK_TIERS", null="not rated")
OPENED_AT: Final = column(
    "opened_at",
    TIMESTAMP,
    meaning="Since when it takes payments",
    unit="us since 1970-01-01 UTC",
    null="not known",
)

PERSONAL: Final = {"merchant_id": PSEUDONYM}
"""A merchant may be a person, and has the pseudonym it has as a payee."""

REQUIRED: Final = ("event_id", "event_timestamp", "merchant_id")
"""Never null in an accepted row."""

MERCHANT: Final = pa.schema(
    [EVENT_ID, EVENT_TIMESTAMP, MERCHANT_ID, DELETED, CATEGORY, LATITUDE, LONGITUDE, RISK_TIER, OPENED_AT]
)

MERCHANT_LOG: Final = pa.schema([*MERCHANT, *LOG_COLUMNS])
