"""The model in use: the one the `champion` alias names, followed when training promotes another.

A champion that cannot be loaded never replaces one that works, and never stops the process.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from feature_repo.errors import ArtefactError
from serving import metrics
from serving.model import Model, champion_version, load_model

log = structlog.get_logger(__name__)


class Champion:
    """`current` is the model in use, None before there is one; `problem` says why the alias's model is not it."""

    def __init__(self, folder: Path, repo: Path, *, threads: int) -> None:
        self.current: Model | None = None
        self.problem = "not loaded yet"
        self._folder, self._repo, self._threads = folder, repo, threads
        self._refused = ""

    def refresh(self) -> None:
        """Load what the alias names, unless it is in use already or was refused already."""
        try:
            version = champion_version(self._folder)
            if self.current is not None and version == self.current.version:
                self.problem = ""
                return
            if version == self._refused:
                return
            self._refused = version
            model = load_model(self._folder / version, self._repo, threads=self._threads)
        except ArtefactError as error:
            if str(error) != self.problem:
                metrics.MODEL_REFUSED.inc()
                log.warning("model.refused", why=str(error), using=self.current and self.current.version)
            self.problem = str(error)
            return
        if self.current is not None:
            metrics.MODEL.labels(self.current.name, self.current.version).set(0)
        self.current, self.problem, self._refused = model, "", ""
        metrics.MODEL.labels(model.name, model.version).set(1)
        log.info("model.loaded", name=model.name, version=model.version, features=len(model.features))

    async def follow(self, seconds: float) -> None:
        """Look again every so often, off the event loop; for ever."""
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.refresh)
