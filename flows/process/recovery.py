"""Recovery: where a flow's durable state is, how `bytewax.run` gets it, and who may run in a home.

`bytewax.run` reads its command line before it imports the flow, so it is too late for the flow to give it a recovery
folder. So `reexec_with_recovery` replaces the process (same pid) by the same command with Bytewax's own environment
variables set (`BYTEWAX_RECOVERY_DIRECTORY`, `..._SNAPSHOT_INTERVAL`, `..._BACKUP_INTERVAL`), before anything heavy is
imported, and logs one line. It does nothing if the command has `-r`, or with `MILLSTREAM_RECOVERY=off`. `flows.run`
needs no such step.

Beside the recovery partitions lies a fingerprint of the step ids. Bytewax would silently orphan the state of a renamed
step, and with it lose or duplicate events; we refuse to start instead. A lock keeps a second flow off the same home.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog
from bytewax import recovery as bytewax_recovery
from bytewax.dataflow import Dataflow

from feature_repo.errors import RecoveryError
from feature_repo.files import try_lock, write_atomically
from flows.settings import FlowSettings

log = structlog.get_logger(__name__)

FINGERPRINT: Final = "steps.json"
_held_locks: dict[Path, int] = {}
_init_db_dir: Any = bytewax_recovery.init_db_dir
_RecoveryConfig: Any = bytewax_recovery.RecoveryConfig


def folder(settings: FlowSettings, stream: str, run: str) -> Path:
    """Recovery folder of a stream's flow; each `run` (`run_name`) has its own."""
    return settings.recovery / f"{stream}-{run}"


def prepare(path: Path, partitions: int) -> Path:
    """Create the recovery partitions if there are none; returns `path`.

    Mode 0700, because snapshots are pickles: who can write one can run code.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not any(path.glob("part-*.sqlite3")):
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        _init_db_dir(aside, partitions)
        try:
            aside.rename(path)  # all partitions at once: Bytewax cannot use a part of them
        except OSError:
            shutil.rmtree(aside)
            if not any(path.glob("part-*.sqlite3")):
                raise
            # else another process of the cluster was first
    for kept in (path.parent, path):
        if kept.stat().st_mode & 0o077:
            kept.chmod(0o700)
    return path


def run_options() -> dict[str, Any] | None:
    """The options of `python -m bytewax.run` if that is what this process is, else None."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is None or spec.name != "bytewax.run":
        return None
    options: dict[str, Any] = getattr(main, "kwargs", {})
    return options


def run_name(settings: FlowSettings) -> str:
    """`bus`, `kafka`, or a name made of the fingerprints of the files to read."""
    if not settings.files:
        return settings.source
    from flows.sources.files import FileSource

    parts = sorted(FileSource(settings.files, settings).paths)
    return f"files-{hashlib.blake2b(chr(10).join(parts).encode(), digest_size=6).hexdigest()}"


def reexec_with_recovery(settings: FlowSettings, stream: str, run: str) -> None:
    """Replace this process by the same command with recovery.

    Returns if it is not a `python -m bytewax.run` without `-r`, or if recovery is off.
    """
    options = run_options()
    if options is None or options.get("recovery_config") is not None:
        return
    if settings.recovery_mode == "off":
        log.warning(
            "recovery.off", todo="nothing is remembered; unset MILLSTREAM_RECOVERY to continue after restarts"
        )
        return
    path = prepare(folder(settings, stream, run), settings.recovery_partitions)
    seconds = max(round(settings.epoch_ms / 1000), 1)
    log.info(
        "recovery.on",
        folder=str(path),
        epoch_seconds=seconds,
        by="running this command again with recovery set",
    )
    reexec(
        BYTEWAX_RECOVERY_DIRECTORY=str(path),
        BYTEWAX_SNAPSHOT_INTERVAL=str(seconds),
        BYTEWAX_RECOVERY_BACKUP_INTERVAL="0",
    )


def reexec(**environment: str) -> NoReturn:
    """Replace this process (same pid) by the command that started it, with these environment variables added.

    Threads, connections and locks of this process end, as in a crash: its descriptors are closed on exec.
    """
    os.environ.update(environment)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  the command that the user typed


def can_reexec(settings: FlowSettings) -> bool:
    """Whether this process may be replaced by `reexec` while its flow runs.

    It reads the bus or Kafka, with recovery, and not in a cluster.
    """
    options = run_options() or {}
    return settings.recovery_mode == "on" and not settings.files and options.get("process_id") is None


def config(settings: FlowSettings, stream: str, run: str) -> Any:
    """A `RecoveryConfig` for Bytewax's `cli_main`; None if recovery is off."""
    if settings.recovery_mode == "off":
        return None
    path = prepare(folder(settings, stream, run), settings.recovery_partitions)
    return _RecoveryConfig(str(path), timedelta(0))


def guard(flow: Dataflow, settings: FlowSettings, stream: str, path: Path) -> None:
    """Lock the home for this flow, and check that its steps and part counts fit the recovery folder.

    Raises `RecoveryError` if another flow of the stream or an erasure runs, if an erasure is unfinished, or if the flow
    does not fit.
    """
    from flows.privacy.tombstones import require_finished

    _lock(settings.recovery / f"{stream}.lock")
    try:
        require_finished(settings.home)
    except RecoveryError:
        release(settings, stream)  # this process may be the one that finishes the erasure
        raise
    steps, counts = step_ids(flow), part_counts(settings, stream, path)
    stored = path / FINGERPRINT
    if stored.exists():
        known = json.loads(stored.read_text(encoding="utf-8"))
        _refuse_other_steps(set(known["steps"]), set(steps), path)
        for name, count in counts.items():
            _refuse_fewer(name, known.get(name, 0), count, path)
        if all(known.get(name) == count for name, count in counts.items()):
            return
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = json.dumps({"steps": steps, **counts}, indent=1) + "\n"
    write_atomically(stored, content, durable=False)  # all processes of a cluster write the same content


def part_counts(settings: FlowSettings, stream: str, path: Path) -> dict[str, int]:
    """How many parts with recovery state there are, by setting.

    A count may grow, not shrink: Bytewax panics on the state of a missing part.
    """
    counts = {"key_shards": settings.key_shards}
    if path.name == f"{stream}-bus":
        counts["bus_partitions"] = settings.bus_partitions
    return counts


def _refuse_other_steps(known: set[str], steps: set[str], path: Path) -> None:
    if known != steps:
        gone, new = sorted(known - steps), sorted(steps - known)
        raise RecoveryError(
            f"the flow has other steps than its recovery state (gone: {gone or 'none'}; new: {new or 'none'})",
            where=path,
            todo=(
                "run the version that wrote it; or let that version finish reading the bus, then move recovery, "
                "log, staging, dead letters and checkpoints away together and read everything again"
            ),
        )


def _refuse_fewer(name: str, known: int, count: int, path: Path) -> None:
    if count < known:
        raise RecoveryError(
            f"{name} is {count}, and was {known} before: it may grow, not shrink",
            where=path,
            todo=f"set MILLSTREAM_{name.upper()}={known} or more",
        )


def step_ids(flow: Dataflow) -> list[str]:
    """Full ids of all steps and their substeps, sorted."""
    found, todo = [], list(flow.substeps)
    while todo:
        step = todo.pop()
        found.append(step.step_id)
        todo += step.substeps
    return sorted(found)


def release(settings: FlowSettings, stream: str) -> None:
    """Release the lock that `guard` took, after the flow has ended in this process."""
    descriptor = _held_locks.pop(settings.recovery / f"{stream}.lock", None)
    if descriptor is not None:
        os.close(descriptor)


@contextlib.contextmanager
def flows_stopped(settings: FlowSettings, streams: Iterable[str]) -> Iterator[None]:
    """Hold the locks of all flows and backfills of these streams, so that none starts.

    Raises `RecoveryError` naming those that run.
    """
    held: list[int] = []
    busy: list[str] = []
    try:
        for stream in streams:
            for name, what in (
                (stream, f"the flow of {stream}"),
                (f"{stream}-backfill", f"a backfill of {stream}"),
            ):
                descriptor = try_lock(settings.recovery / f"{name}.lock")
                if descriptor is None:
                    busy.append(what)
                else:
                    held.append(descriptor)
        if busy:
            raise RecoveryError(
                f"{', '.join(busy)} must not run meanwhile",
                where=settings.home,
                todo=f"stop {'it' if len(busy) == 1 else 'them'} (Ctrl-C, or the service that starts them), "
                "then run this again; the scorer may keep running",
            )
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def _lock(path: Path) -> None:
    options = run_options() or {}
    if options.get("process_id"):  # process 0 of a cluster holds the lock for all of them
        return
    descriptor = try_lock(path)
    if descriptor is None:
        raise RecoveryError(
            "another flow process of this stream works in the same home, or an erasure does",
            where=path,
            todo="stop it first, or set MILLSTREAM_HOME to another folder",
        )
    _held_locks[path] = descriptor  # until the process, or `release`, ends it
