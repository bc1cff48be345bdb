"""Apply a stream's privacy policy: drop columns, replace values by pseudonyms.

This step comes after the checks, which need the plain values, and before every step that stores data: admission, joins,
the log, window states and the online store never see a plain value. It makes one pass per personal column of a block; a
recently seen value costs a look-up, a new one a hash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from feature_repo.privacy import Pseudonyms, apply
from flows.blocks import Events
from flows.streams import EventStream


class Pseudonymiser:
    """Applies the policy of a stream to checked events.

    Without a key (`off`) accounts and merchants keep their ids, and other columns that would need a pseudonym are null.
    The events' origin keeps the plain values: only the dead letters read it, and they are encrypted
    (`flows.privacy.payload_cipher`). `erased_accounts` rejects events of erased accounts (`flows.privacy.tombstones`);
    it needs pseudonyms, so it comes after the policy.
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
        """Return the events without plain personal values; events of erased accounts become dead letters."""
        if self._policy:
            events = replace(events, rows=apply(self._policy, events.rows, self._pseudonyms))
        return self._erased_accounts(events)
