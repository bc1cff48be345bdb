"""Start a running flow again when the views it should fold have changed.

A thread looks once a second at `views.json` and at the note of the backfills. When the wanted versions differ from
those this process folds, it replaces the process by the same command (same pid, `flows.process.recovery.reexec`). That
is as safe as a crash, at any moment: the next start resumes from the last durable epoch and replays the rest, at most
one epoch. Its parts begin with the checkpoints of the backfill, fold the rows of the log beyond them, and are ready
after 2 to 4 s for a million accounts. Payments scored meanwhile count through the pending lists, as in any restart.

A cluster of several processes, which would have to stop together, takes new views up when it is started the next time.
So does a flow without recovery, which cannot be started again, and a run over files, which ends by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread
from typing import Final

import structlog

from feature_repo.errors import DefinitionError
from feature_repo.stores.applied_views import read_views
from feature_repo.stores.redis_layout.keys import version_id
from flows.settings import FlowSettings
from flows.window_state.folded_views import FoldedViews, handover_file, read_handover

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0

Restart = Callable[[frozenset[str]], None]
"""Start the flow again; takes the versions of `views.json` that it must not fold yet."""


class ViewWatch:
    """Compares the views a process folds with those it should fold, and calls `restart` when they differ."""

    def __init__(self, views: FoldedViews, settings: FlowSettings, restart: Restart) -> None:
        self._views, self._settings, self._restart = views, settings, restart
        self._paths = (settings.home / "views.json", handover_file(settings, views.stream))
        self._seen: tuple[int, ...] = ()
        self._warned: set[str] = set()

    def start(self) -> None:
        """Look from now on, in a thread that ends with the process."""
        Thread(target=self._run, name="view-watch", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Look once; does nothing while the files are as they were."""
        seen = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in self._paths)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            applied = read_views(self._paths[0])
        except DefinitionError:
            return
        folded = self._views.versions
        kept = frozenset(map(version_id, applied.kept(self._views.stream)))
        filled = read_handover(self._settings, self._views.stream)
        wanted = kept & (folded | filled)
        self._warn(kept - wanted)
        if wanted != folded:
            log.info(
                "flow.restarts",
                new_views=sorted(wanted - folded),
                retired_views=sorted(folded - wanted),
                by="running this command again",
            )
            self._restart(kept - wanted)

    def _warn(self, unfilled: frozenset[str]) -> None:
        for version in sorted(unfilled - self._warned):
            self._warned.add(version)
            log.warning(
                "view.new",
                version=version,
                then="it is not folded yet",
                todo="run python -m flows.backfill, or start the flow again",
            )
