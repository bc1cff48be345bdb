"""The steps that `flows.demo` and `flows.up` share: apply definitions, generate history, backfill, train.

Each step prints one line. The time is passed in; processes are started by `flows.local.processes`.
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
"""Services with fewer features (payments only; with enrichment) that the model is compared with."""
MODEL = "fraud_detection"
APPLIED = "applied.sha256"
"""File of a home with the hash of the definitions that were applied last."""
REPO = PROJECT_ROOT / "feature_repo"


@dataclass(frozen=True)
class Scale:
    """Size of the generated world. `payments` is the number of payments in `days`."""

    payments: int = 225_000
    accounts: int = 5_000
    merchants: int = 500
    days: float = 30.0
    fraud_share: float = 0.008
    seed: int = 1


def is_applied(settings: FlowSettings) -> bool:
    """Return whether registry and online store hold the current definitions.

    Checked without Feast, whose import is slow.
    """
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
    """Return a hash of all files of the feature repository, the version of Feast and what `feast apply` wrote."""
    files = [path for kind in ("*.py", "*.yaml", ".feastignore") for path in sorted(REPO.rglob(kind))]
    files += [settings.registry, settings.home / "views.json"]
    digest = hashlib.sha256(metadata.version("feast").encode())
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def begin_apply(processes: Processes) -> float:
    """Start `feast apply` in the background; return its start (perf_counter)."""
    processes.start("feast apply", "-m", "flows.demo.apply")
    return time.perf_counter()


def end_apply(processes: Processes, steps: Steps, settings: FlowSettings, began: float) -> None:
    """Wait until `feast apply` has ended; `began` is its start."""
    with steps.step("apply", "feast apply") as step:
        step.began = began
        processes.finish("feast apply")
        (settings.home / APPLIED).write_text(_applied(settings), encoding="utf-8")
        views = read_views(settings.home / "views.json")
        windows = [spec for specs in views.streams.values() for spec in specs]
        features = sum(len(spec.aggregates) for spec in windows)
        step.found = f"{len(windows)} stream feature views with {features} windowed features"


def generate(steps: Steps, scale: Scale, folder: Path, now: datetime) -> int:
    """Generate a history that ends at `now`; return its number of payments."""
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
            f"over {scale.days:g} days, {known:,} reported as fraud so far"
        )
        return count


def backfill(steps: Steps, settings: FlowSettings, folder: Path) -> Mapping[str, Counts]:
    """Run a generated history through the flows, each stream after those it is joined with.

    Return the counts per stream.

    Streams that are joined with nothing run in a second thread, until the first stream that needs them.
    """
    from flows import backfill_files

    streams = [s for s in STREAMS.values() if (folder / f"{s.name}.parquet").exists()]
    first = [s.name for s in streams if not s.joins]
    with steps.step("backfill", "Backfill the history") as step, ThreadPoolExecutor(2) as aside:
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
        step.found = ", ".join(_counted(name, count) for name, count in counts.items())
        return counts


def train(processes: Processes, steps: Steps, settings: FlowSettings) -> dict[str, Any]:
    """Train a model in a child process; return the manifest of the champion."""
    with steps.step("train", "Train the model") as step:
        compared = [word for service in SMALLER for word in ("--compare-service", service)]
        processes.start("training", "-m", "training.train", "--service", SERVICE, *compared)
        processes.finish("training", lambda line: _pass_on(step, line))
        manifest = champion(settings)
        trees = manifest["model"]["chosen"]["trees"]
        step.found = f"{trees} trees, {len(manifest['features'])} features; champion is {manifest['version']}"
        return manifest


def champion(settings: FlowSettings) -> dict[str, Any]:
    """Return the manifest of the champion. Raises `ArtefactError` if there is none."""
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
    """Print a line of the training's output if it is that of a finished step."""
    if line.startswith("✓"):
        step.say(line)
        step.advance(0, None, "")


def _counted(name: str, count: Counts) -> str:
    dead = sum(count.dead_lettered.values())
    return f"{count.logged:,} {name} logged" + (f", {dead:,} dead letters" if dead else "")
