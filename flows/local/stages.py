"""The steps both `flows.demo` and `flows.up` take: definitions, history, backfill, model. Each shows itself as one line.

The clock is passed in; the processes are started by `flows.local.processes`.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import metadata
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import orjson
import redis

from feature_repo.champion_alias import MANIFEST, read_alias
from feature_repo.errors import ArtefactError, DefinitionError
from feature_repo.settings import PROJECT_ROOT
from feature_repo.stores.applied_views import read_views
from feature_repo.stores.redis_layout.view_versions import versions_key
from flows.local.processes import Processes
from flows.local.show import Step, Steps
from flows.settings import FlowSettings
from flows.streams import STREAMS

if TYPE_CHECKING:
    from flows.backfill_files import Counts

SERVICE = "fraud_detection_v3"
SMALLER = ("fraud_detection_v1", "fraud_detection_v2")
"""Payments alone; with enrichment: what the model is compared with, to see what the rest brings."""
MODEL = "fraud_detection"
APPLIED = "applied.sha256"
"""File of a home: what was applied last."""
REPO = PROJECT_ROOT / "feature_repo"


@dataclass(frozen=True)
class Scale:
    """How large a world to generate."""

    payments: int = 225_000
    accounts: int = 5_000
    merchants: int = 500
    days: float = 30.0
    fraud_share: float = 0.008
    seed: int = 1


def is_applied(settings: FlowSettings) -> bool:
    """Whether registry and server hold the definitions as they are: importing Feast only to find that out takes longer than all the rest."""
    try:
        stated = (settings.home / APPLIED).read_text(encoding="utf-8")
        views = read_views(settings.home / "views.json")
        if stated != _applied(settings):
            return False
    except (OSError, DefinitionError):
        return False
    with contextlib.closing(redis.Redis.from_url(settings.redis_url)) as client:
        return bool(client.exists(versions_key(views.project)))


def _applied(settings: FlowSettings) -> str:
    """Changes with any file of the repo, with Feast, and with what the last `feast apply` wrote."""
    files = [path for kind in ("*.py", "*.yaml", ".feastignore") for path in sorted(REPO.rglob(kind))]
    files += [settings.registry, settings.home / "views.json"]
    digest = hashlib.sha256(metadata.version("feast").encode())
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def begin_apply(processes: Processes) -> float:
    """Start `feast apply`, which spends seconds on importing Feast; returns when it began."""
    processes.start("feast apply", "-m", "flows.demo.apply")
    return time.perf_counter()


def end_apply(processes: Processes, steps: Steps, settings: FlowSettings, began: float) -> None:
    """Wait until the definitions are in the registry."""
    with steps.step("apply", "feast apply") as step:
        step.began = began
        processes.finish("feast apply")
        (settings.home / APPLIED).write_text(_applied(settings), encoding="utf-8")
        views = read_views(settings.home / "views.json")
        windows = [spec for specs in views.streams.values() for spec in specs]
        features = sum(len(spec.aggregates) for spec in windows)
        step.found = f"{len(windows)} stream feature views with {features} windowed features"


def generate(steps: Steps, scale: Scale, folder: Path, now: datetime) -> int:
    """Generate a history that ends now; returns its payments."""
    import pyarrow.compute as pc  # here and below: most starts need neither generator nor backfill
    import pyarrow.parquet as pq

    from flows.generate import World, epoch_us, payments_a_day
    from flows.generate.command import write_history

    with steps.step("generate", "Generate history") as step:
        start = now - timedelta(days=scale.days)
        world = World(
            scale.seed,
            accounts=scale.accounts,
            merchants=scale.merchants,
            payments_a_day=payments_a_day(scale.payments, epoch_us(start), epoch_us(now)),
            fraud_share=scale.fraud_share,
        )
        count = write_history(world, start, now, folder)
        labels = pq.read_table(
            folder / "labels.parquet", columns=["payment_id"], filters=[("is_fraud", "=", True)]
        )
        known = pc.count_distinct(labels["payment_id"]).as_py()
        step.found = (
            f"{count:,} payments of {scale.accounts:,} accounts at {scale.merchants:,} merchants "
            f"over {scale.days:g} days, {known:,} of them reported by now"
        )
        return count


def backfill(steps: Steps, settings: FlowSettings, folder: Path) -> Mapping[str, Counts]:
    """Run a generated history through the flows, each stream after those it is joined with; return the counts per stream.

    Streams that are joined with nothing run in a second thread, until the first stream that needs them.
    """
    from flows import backfill_files

    streams = [s for s in STREAMS.values() if (folder / f"{s.name}.parquet").exists()]
    first = [s.name for s in streams if not s.joins]
    with steps.step("backfill", "Through the flows") as step, ThreadPoolExecutor(2) as aside:
        counts: dict[str, Counts] = {}
        stopped = Event()

        def show(name: str, done: int, of: int) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt  # Ctrl-C reaches the main thread only; the flow of this one must not outlive it
            step.advance(done, of, f"{done:,} of {of:,} {name}")

        def through(*names: str) -> dict[str, Counts]:
            files = {name: [folder / f"{name}.parquet"] for name in names}
            return backfill_files.run(settings, on_progress=show, **files)

        try:
            others = aside.submit(through, *first)
            for stream in (s for s in streams if s.joins):
                if any(join.stream in first for join in stream.joins):
                    counts |= others.result()
                counts |= through(stream.name)
            counts |= others.result()
        except BaseException:
            stopped.set()
            raise
        step.found = ", ".join(_told(name, count) for name, count in counts.items())
        return counts


def train(processes: Processes, steps: Steps, settings: FlowSettings) -> dict[str, Any]:
    """Train a model in a process of its own; returns the manifest of the champion."""
    with steps.step("train", "Train the model") as step:
        compared = [word for service in SMALLER for word in ("--compare-service", service)]
        processes.start("training", "-m", "training.train", "--service", SERVICE, *compared)
        processes.finish("training", lambda line: _pass_on(step, line))
        manifest = champion(settings)
        trees = manifest["model"]["chosen"]["trees"]
        step.found = (
            f"{trees} trees on {len(manifest['features'])} features, now champion: {manifest['version']}"
        )
        return manifest


def champion(settings: FlowSettings) -> dict[str, Any]:
    """The manifest of the model in use."""
    folder = settings.models / MODEL
    try:
        manifest: dict[str, Any] = orjson.loads((folder / read_alias(folder).version / MANIFEST).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ArtefactError(
            f"there is no champion: {error}",
            where=folder,
            todo=f"train one: python -m training.train --service {SERVICE}",
        ) from error
    return manifest


def _pass_on(step: Step, line: str) -> None:
    """Training's own lines, those of finished steps."""
    if line.startswith("✓"):
        step.say(line)
        step.advance(0, None, "")


def _told(name: str, count: Counts) -> str:
    dead = sum(count.dead_lettered.values())
    return f"{count.logged:,} {name} logged" + (f", {dead:,} dead letters" if dead else "")
