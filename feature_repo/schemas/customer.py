"""One row per version of a customer: what is true of an account holder from `event_timestamp` on (UTC us).

A changelog: every event is the whole row anew, a deletion is a row with `deleted` true and nothing else. A version is
valid until the next one of its account; a correction is a later row, with the time from which it is true.

`CUSTOMER` is what a source hands to the flow, with personal columns; `CUSTOMER_LOG` is what is left of it after the policy
`PERSONAL`, and all that is ever stored. Fields are physically nullable for the reasons given in
`feature_repo.schemas.payment`; `REQUIRED` names the columns that are never null.
"""

from typing import Final

import pyarrow as pa

from feature_repo.privacy.policy import DROP, PSEUDONYM
from feature_repo.schemas.payment import EVENT_ID, LOG_COLUMNS, TIMESTAMP, column

SEGMENTS: Final = ("student", "standard", "premium", "business")

EVENT_TIMESTAMP: Final = column(
    "event_timestamp", TIMESTAMP, meaning="From when on this version is true", unit="us since 1970-01-01 UTC"
)
ACCOUNT_ID: Final = column("account_id", pa.string(), meaning="The account")
DELETED: Final = column(
    "deleted", pa.bool_(), meaning="True: the account is closed, all else is null", null="false"
)
HOME_LATITUDE: Final = column(
    "home_latitude",
    pa.float64(),
    meaning="Where the holder lives, WGS 84, -90 to 90",
    unit="degrees north",
    null="not known",
)
HOME_LONGITUDE: Final = column(
    "home_longitude",
    pa.float64(),
    meaning="Where the holder lives, WGS 84, -180 to 180",
    unit="degrees east",
    null="not known",
)
EMAIL: Final = column("email", pa.string(), meaning="E-mail address", null="not known")
PHONE: Final = column("phone", pa.string(), meaning="Telephone number, E.164", null="not known")
NAME: Final = column("name", pa.string(), meaning="Name of the holder", null="not known")
BIRTH_DATE: Final = column(
    "birth_date", pa.string(), meaning="Date of birth", unit="ISO 8601 date", null="not known"
)
SEGMENT: Final = column("segment", pa.string(), meaning="One of SEGMENTS", null="not known")
OPENED_AT: Final = column(
    "opened_at",
    TIMESTAMP,
    meaning="When the account was opened",
    unit="us since 1970-01-01 UTC",
    null="not known",
)

PERSONAL: Final = {
    "account_id": PSEUDONYM,
    "email": PSEUDONYM,
    "phone": PSEUDONYM,
    "name": DROP,
    "birth_date": DROP,
}
"""What becomes of personal columns where a version comes in. Where somebody lives is kept to the degree of a coordinate,
for the distances; whoever may read it is a matter of permissions."""

REQUIRED: Final = ("event_id", "event_timestamp", "account_id")
"""Never null in an accepted row."""

CUSTOMER: Final = pa.schema(
    [
        EVENT_ID,
        EVENT_TIMESTAMP,
        ACCOUNT_ID,
        DELETED,
        HOME_LATITUDE,
        HOME_LONGITUDE,
        EMAIL,
        PHONE,
        NAME,
        BIRTH_DATE,
        SEGMENT,
        OPENED_AT,
    ]
)

CUSTOMER_LOG: Final = pa.schema([f for f in CUSTOMER if PERSONAL.get(f.name) != DROP] + list(LOG_COLUMNS))
