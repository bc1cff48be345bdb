"""The words of a privacy policy, for declarations of streams: what ingestion does to a personal column."""

from collections.abc import Mapping
from typing import Final

DROP: Final = "drop"
"""The column is removed on ingestion."""
PSEUDONYM: Final = "pseudonym"
"""Every value is replaced by its pseudonym (`feature_repo.privacy`); equal values of columns of this name share one."""
PARTY: Final = "party"
"""The column names an account or a merchant; values are replaced by pseudonyms of one domain, for the payee of a
transfer is an account. An erasure finds an account by these columns. Also the name of that domain."""


def domain_of(column: str, treatment: str) -> str:
    """Return the domain of a column's values; equal values of one domain have one pseudonym.

    >>> domain_of("merchant_id", PARTY), domain_of("email", PSEUDONYM)
    ('party', 'email')
    """
    return PARTY if treatment == PARTY else column


def lost_without_key(policy: Mapping[str, str]) -> frozenset[str]:
    """Return the columns that are personal even with the setting `off`: only ids of parties may be pseudonyms already.

    >>> sorted(lost_without_key({"account_id": PARTY, "email": PSEUDONYM, "name": DROP}))
    ['email', 'name']
    """
    return frozenset(column for column, treatment in policy.items() if treatment != PARTY)
