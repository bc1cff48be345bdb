"""The words of a privacy policy, for the schemas: what happens to a personal column where its event comes in."""

from collections.abc import Mapping
from typing import Final

DROP: Final = "drop"
"""The column does not get past the door."""
PSEUDONYM: Final = "pseudonym"
"""Every value is replaced by its pseudonym (`feature_repo.privacy`)."""

PARTY: Final = "party"
"""Domain of payers and payees alike: the payee of a transfer is an account."""

_DOMAINS: Final = {"account_id": PARTY, "merchant_id": PARTY}


def domain_of(column: str) -> str:
    """What a column's values are names of; equal values of one domain have one pseudonym.

    >>> domain_of("merchant_id"), domain_of("email")
    ('party', 'email')
    """
    return _DOMAINS.get(column, column)


def lost_without_key(policy: Mapping[str, str]) -> frozenset[str]:
    """Columns that the setting `off` does not make harmless: only accounts and merchants may be pseudonyms already.

    >>> sorted(lost_without_key({"account_id": PSEUDONYM, "email": PSEUDONYM, "name": DROP}))
    ['email', 'name']
    """
    return frozenset(
        column for column, treatment in policy.items() if treatment != PSEUDONYM or domain_of(column) != PARTY
    )
