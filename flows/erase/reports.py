"""Remove reports that show a payment of an erased account as an example: the skew report and the Data Docs.

They can be written again, so a file that shows such a payment is removed as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flows.erase.files import Affected
from flows.erase.people import People
from flows.settings import FlowSettings


class Reports:
    """The reports of a home."""

    def __init__(self, settings: FlowSettings, people: People) -> None:
        self._home, self._people = settings.home, people

    def survey(self) -> Iterator[Affected]:
        """Yield the files that show one of the accounts or payments, each counted as one row."""
        for path in (self._home / "skew.json", *sorted((self._home / "data_docs").rglob("*"))):
            if path.is_file() and self._people.is_shown_in(path.read_bytes()):
                yield Affected(path, 1)

    def erase(self, path: Path) -> int:
        """Remove a file; return 1."""
        path.unlink(missing_ok=True)
        return 1
