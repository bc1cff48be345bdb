"""The erased_accounts: what a stream's privacy policy drops is dropped here, what it replaces becomes a pseudonym.

It stands right after the checks, which need the values as they came, and before everything that remembers: admission, joins,
the log, window states and the online store never see a plain value. One pass per personal column of a block; a value seen
lately costs a look-up, a new one a hash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from feature_repo.privacy import Pseudonyms, apply
from flows.blocks import Events
from flows.streams import EventStream


class Pseudonymiser:
    """Applies the policy of a stream to blocks; call it with checked events.

    Without a key (`off`) accounts and merchants keep their ids, and other columns that would need a pseudonym are null.
    The events' origin stays as it is: only the dead letters read it, and they are sealed (`flows.privacy.payload_cipher`). `erased_accounts` refuses those
    whose account was erased (`flows.privacy.tombstones`): it knows accounts by their pseudonyms, hence after the policy.
    """

    def __init__(
        self,
        stream: EventStream,
        pseudonyms: Pseudonyms,
        erased_accounts: Callable[[Events], Events] = lambda events: events,
    ) -> None:
        self._policy = stream.personal
        self._pseudonyms = pseudonyms
        self._erased_accounts = erased_accounts

    def __call__(self, events: Events) -> Events:
        """The same events without what the policy keeps out, and without erased accounts."""
        if self._policy:
            events = replace(events, rows=apply(self._policy, events.rows, self._pseudonyms))
        return self._erased_accounts(events)
