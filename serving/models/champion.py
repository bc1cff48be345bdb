"""The model in use: the one the `champion` alias names, followed when training promotes another.

A champion that cannot be loaded never replaces one that works, and never stops the process.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import structlog

from feature_repo.champion_alias import CHAMPION, Alias, read_alias
from feature_repo.errors import ArtefactError
from serving import metrics
from serving.models.model import Model, load_model
from serving.models.warm_up import warm_model

log = structlog.get_logger(__name__)


class Champion:
    """`current` is the model in use, if any; `problem` says why it is not the one that the alias names.

    `folder` holds the alias and the versions, `repo` the on-demand functions; `threads` are those of the model runtime.
    """

    def __init__(self, folder: Path, repo: Path, *, threads: int) -> None:
        self.current: Model | None = None
        self.problem = "not loaded yet"
        self._folder, self._repo, self._threads = folder, repo, threads
        self._refused: tuple[Any, ...] = ()
        """Alias and files of the version that could not be loaded; it is tried again when any of them has changed."""

    def refresh(self) -> None:
        """Load the model that the alias names, unless it is in use or could not be loaded before. Never raises."""
        try:
            alias = read_alias(self._folder)
            if self._is_used(alias):
                self._accept()
                return
            seen = (alias, *_look(self._folder / alias.version))
            if seen == self._refused:
                return
            self._refused = seen
            if not alias.digest:
                raise ArtefactError(  # noqa: TRY301  handled like the other errors below
                    f"the alias lacks the sha256 of {alias.version}'s manifest",
                    where=self._folder / CHAMPION,
                    todo=f"promote it: python -m training.promote {alias.version}",
                )
            model = load_model(
                self._folder / alias.version, self._repo, threads=self._threads, digest=alias.digest
            )
            warm_model(model)
        except ArtefactError as error:
            self._refuse(str(error))
        except Exception as error:  # whatever it is, the earlier model stays in use
            log.exception("model.failed_to_load")
            self._refuse(f"it could not be loaded: {error!r}")
        else:
            if self.current is not None:
                metrics.MODEL.labels(self.current.name, self.current.version).set(0)
            self.current, self._refused = model, ()
            self._accept()
            metrics.MODEL.labels(model.name, model.version).set(1)
            log.info("model.loaded", name=model.name, version=model.version, features=len(model.features))

    def _is_used(self, alias: Alias) -> bool:
        used = self.current
        return used is not None and alias.version == used.version and alias.digest in {"", used.digest}

    def _accept(self) -> None:
        self.problem = ""
        metrics.MODEL_STALE.set(0)

    def _refuse(self, why: str) -> None:
        if why != self.problem:
            metrics.MODEL_REFUSED.inc()
            log.warning("model.refused", why=why, using=self.current and self.current.version)
        self.problem = why
        metrics.MODEL_STALE.set(1)

    async def follow(self, seconds: float) -> None:
        """Refresh every so many seconds in a thread, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.refresh)


def _look(artefact: Path) -> list[tuple[str, int, int]]:
    """Return (name, bytes, mtime in ns) of a directory's files; empty if it does not exist."""
    try:
        found = [(path, path.lstat()) for path in sorted(artefact.rglob("*"))]
    except OSError:
        return []
    return [(str(path), seen.st_size, seen.st_mtime_ns) for path, seen in found]
