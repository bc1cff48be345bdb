"""Checkpoints of fold parts: the window states of one entity and shard, and up to where the log is in them.

One file per checkpoint, `<entity>-<shard>-<seq>-<run>.npz`, plain arrays (no pickle), written aside and renamed. The last two
are kept: the snapshot of the last durable epoch may still name the one before the newest.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog

from feature_repo.windows.columns import Keys
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.blocks import Int64s

log = structlog.get_logger(__name__)
_told: set[tuple[str, ...]] = set()

KEPT: Final = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. `offsets`: last offset contained, per source partition; `dirty`: slots not yet written on line."""

    name: str
    offsets: dict[str, int]
    index: KeyIndex
    states: list[ViewState]
    dirty: Int64s


class CheckpointFolder:
    """The checkpoints of one fold part. Each run writes and prunes its own, and may begin from another's."""

    def __init__(self, folder: Path, part: str, run: str) -> None:
        self._folder = folder
        self._part = part.replace(":", "-")
        self._run = run
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def names(self, run: str = "") -> list[str]:
        """File names, oldest first; of one run if it is given."""
        pattern = re.compile(re.escape(self._part) + r"-\d{8}-" + (re.escape(run) or ".*") + r"\.npz")
        return sorted(path.name for path in self._folder.iterdir() if pattern.fullmatch(path.name))

    def write(
        self,
        index: KeyIndex,
        specs: tuple[ViewSpec, ...],
        states: list[ViewState],
        offsets: dict[str, int],
        dirty: Int64s,
    ) -> str:
        """Write the next checkpoint and remove those before the last two; returns its name."""
        before = self.names()
        number = int(before[-1][len(self._part) + 1 :][:8]) + 1 if before else 0
        name = f"{self._part}-{number:08d}-{self._run}.npz"
        keys = index.export()
        about = {"offsets": offsets, "views": [[spec.name, spec.fingerprint] for spec in specs]}
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
        aside = self._folder / f".{name}.tmp"
        with aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._folder / name)
        for old in self.names(self._run)[:-KEPT]:
            (self._folder / old).unlink(missing_ok=True)
        return name

    def read(self, name: str, specs: tuple[ViewSpec, ...]) -> Checkpoint | None:
        """A checkpoint, or None if it is gone, damaged or of other views: the log has everything, it only takes longer."""
        try:
            with np.load(self._folder / name, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                if about["views"] != [[spec.name, spec.fingerprint] for spec in specs]:
                    _tell_once(specs)
                    return None
                index = KeyIndex()
                slots = index.slots(Keys(file["hashes"], file["key_offsets"], file["key_data"]))
                states = [ViewState(spec) for spec in specs]
                for i, state in enumerate(states):
                    state.load(slots, file[f"blob_{i}"], file[f"at_{i}"])
                return Checkpoint(name, about["offsets"], index, states, file["dirty"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            log.warning(
                "checkpoint.unreadable",
                file=name,
                error=repr(error),
                then="the part is folded anew from the log",
            )
            return None

    def remove_after(self, name: str | None) -> None:
        """Remove checkpoints newer than the one a durable snapshot names: they may hold events that were never logged."""
        for other in self.names(self._run):
            if name is None or other > name:
                (self._folder / other).unlink(missing_ok=True)


def _tell_once(specs: tuple[ViewSpec, ...]) -> None:
    """A changed definition concerns every shard of its entity; the reader of the terminal needs to hear of it once."""
    views = tuple(spec.name for spec in specs)
    if views not in _told:
        _told.add(views)
        log.info("checkpoint.other_views", views=", ".join(views), then="folded anew from the log")
