"""Checkpoints: the window states of a part, and for each view the last offset of the log in them.

One file per checkpoint, `<entity>-<shard>-<seq>-<run>.npz`, of plain arrays (no pickle), written atomically. The last
two of a run are kept, because the snapshot of the last durable epoch may still name the one before the newest. A reader
takes from a file the views it wants, by version, so views may come from different checkpoints, such as those of the
flow and those of a backfill.

A file says among how many shards the keys were divided (`MILLSTREAM_KEY_SHARDS`). A file of another number of shards
has only some of a part's keys, so it is not used: the part is folded from the log.

A flow does not wait for the disk: the states are packed, which is a copy in memory, and a thread of the process writes
them, one file at a time, while the flow goes on. A snapshot names the file once it is written.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog

from feature_repo.files import replaced
from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.windows.columns import Keys
from feature_repo.windows.state import KeyIndex, ViewState
from flows.blocks import Int64s
from flows.process.disk import writing

log = structlog.get_logger(__name__)

KEPT: Final = 2
"""How many checkpoints of each run are kept."""
BACKFILL: Final = "backfill"
"""The run whose checkpoints are made from the published log alone."""
ERASED: Final = "erased"
"""The run of empty checkpoints that an erasure writes to keep the numbering (`flows.erase`)."""

_UNREADABLE: Final = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile)
WAITING_BYTES: Final = 64_000_000
"""While more bytes than this are packed and not yet written, no checkpoint is begun."""


class _Waiting:
    """How many packed bytes of all parts of this process are not written yet."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self._lock = Lock()

    def add(self, n_bytes: int) -> None:
        with self._lock:
            self.total_bytes += n_bytes


_waiting: Final = _Waiting()
_writer: Final = ThreadPoolExecutor(1, "checkpoint")


@dataclass(frozen=True)
class Saved:
    """One view in a checkpoint; key i's packed state is `blob[at[i]:at[i + 1]]`.

    `offsets`: the last offset folded, by source partition.
    """

    offsets: dict[str, int]
    blob: npt.NDArray[np.uint8]
    at: Int64s


@dataclass(frozen=True)
class Checkpoint:
    """What a file has of the views asked for, by version.

    `dirty`: int64[n], positions in `keys` of states that were not written online yet.
    """

    name: str
    keys: Keys
    views: dict[str, Saved]
    dirty: Int64s


def run_of(name: str) -> str:
    """The run that wrote a file.

    >>> run_of("account_id-03-00000017-bus.npz")
    'bus'
    """
    found = _NAME.fullmatch(name)
    return found[1] if found else ""


_NAME: Final = re.compile(r".*?-\d\d-\d{8}-(.*)\.npz")


class CheckpointFolder:
    """The checkpoints of one part. Each run writes and prunes its own, and may begin with those of another."""

    def __init__(self, folder: Path, part: str, run: str, shards: int) -> None:
        self._folder = folder
        self._part = part.replace(":", "-")
        self._run = run
        self._shards = shards
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def is_empty(self) -> bool:
        """Whether no checkpoint has states to begin with.

        There is none, an erasure emptied it, or it is of another number of shards.
        """
        return all(run_of(name) == ERASED or self._shards_of(name) != self._shards for name in self.names())

    def _shards_of(self, name: str) -> int:
        """Among how many shards the keys of a file were divided; 0 if it does not say."""
        try:
            with np.load(self._folder / name, allow_pickle=False) as file:
                return int(json.loads(file["about"].tobytes()).get("shards", 0))
        except _UNREADABLE:
            return 0

    def names(self, run: str = "") -> list[str]:
        """File names, oldest first; only those of `run` if it is given."""
        pattern = re.compile(re.escape(self._part) + r"-\d{8}-" + (re.escape(run) or ".*") + r"\.npz")
        return sorted(path.name for path in self._folder.iterdir() if pattern.fullmatch(path.name))

    def write(
        self,
        index: KeyIndex,
        states: Sequence[ViewState],
        offsets: Sequence[dict[str, int]],
        dirty: Int64s,
    ) -> str:
        """Write the next checkpoint and remove those before the last two; returns its name. Raises `DiskError`.

        `offsets`: for each state the last offset folded, by source partition. `dirty`: int64[n], slots not yet written
        online.
        """
        name = self._store(*self._pack(index, states, offsets, dirty))
        self.prune()
        return name

    def begin(
        self,
        index: KeyIndex,
        states: Sequence[ViewState],
        offsets: Sequence[dict[str, int]],
        dirty: Int64s,
    ) -> Future[str] | None:
        """Begin to write the next checkpoint, with the arguments of `write`; None while too much waits for the disk.

        Call `prune` when a snapshot names it.
        """
        if _waiting.total_bytes > WAITING_BYTES:
            return None
        name, arrays = self._pack(index, states, offsets, dirty)
        n_bytes = sum(array.nbytes for array in arrays.values())
        _waiting.add(n_bytes)
        written = _writer.submit(self._store, name, arrays)
        written.add_done_callback(lambda _: _waiting.add(-n_bytes))
        return written

    def prune(self) -> None:
        """Remove the run's checkpoints before the last two."""
        for old in self.names(self._run)[:-KEPT]:
            (self._folder / old).unlink(missing_ok=True)

    def _pack(
        self,
        index: KeyIndex,
        states: Sequence[ViewState],
        offsets: Sequence[dict[str, int]],
        dirty: Int64s,
    ) -> tuple[str, dict[str, Any]]:
        before = self.names()
        number = int(before[-1][len(self._part) + 1 :][:8]) + 1 if before else 0
        name = f"{self._part}-{number:08d}-{self._run}.npz"
        keys = index.export()
        views = [version_id(state.spec) for state in states]
        about = {
            "shards": self._shards,
            "views": [{"version": v, "offsets": o} for v, o in zip(views, offsets, strict=True)],
        }
        arrays: dict[str, Any] = {
            "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
            "hashes": keys.hashes,
            "key_offsets": keys.offsets,
            "key_data": keys.data,
            "dirty": dirty,
        }
        slots = np.arange(len(index))
        for i, state in enumerate(states):
            arrays[f"blob_{i}"], arrays[f"at_{i}"] = state.pack(slots)
        return name, arrays

    def _store(self, name: str, arrays: dict[str, Any]) -> str:
        with (
            writing("a checkpoint", self._folder),
            replaced(self._folder / name) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez(file, allow_pickle=False, **arrays)
        return name

    def read(self, name: str, versions: Collection[str]) -> Checkpoint | None:
        """The views of these versions in a checkpoint.

        None, with a log line, if the file is damaged, gone or of another number of shards. The states are then folded
        from the log, which takes longer.
        """
        try:
            with np.load(self._folder / name, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                if about.get("shards") != self._shards:
                    log.info(
                        "checkpoint.other_shards",
                        file=name,
                        shards=about.get("shards"),
                        then="the part is folded from the log",
                    )
                    return None
                views = {
                    view["version"]: Saved(view["offsets"], file[f"blob_{i}"], file[f"at_{i}"])
                    for i, view in enumerate(about["views"])
                    if view["version"] in versions
                }
                keys = Keys(file["hashes"], file["key_offsets"], file["key_data"])
                return Checkpoint(name, keys, views, file["dirty"])
        except _UNREADABLE as error:
            log.warning(
                "checkpoint.unreadable",
                file=name,
                error=repr(error),
                then="the part is folded from the log",
            )
            return None

    def remove_after(self, name: str | None) -> None:
        """Remove this run's checkpoints after the one that a durable snapshot names.

        They may hold events that never became durable.
        """
        for other in self.names(self._run):
            if name is None or other > name:
                (self._folder / other).unlink(missing_ok=True)
