"""The states of one part, and how far into the log each of its views is.

A running flow, a cold rebuild and a backfill all fold into a `PartFold`. A view may be further than another one,
because their states may come from different checkpoints. So each view keeps its own offsets, and a row of the log is
folded into exactly those views that do not contain it yet. The order of the rows is free: a state is a function of the
set of events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from feature_repo.stores.redis_layout.keys import version_id
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.blocks import Int64s
from flows.window_state.checkpoints import CheckpointFolder, Saved
from flows.window_state.dirty_slots import DirtySlots
from flows.window_state.slices import LogSlice

NOTHING_FOLDED = -1
"""The last offset of a partition of which nothing has been folded."""

Trusted = Callable[[str, Mapping[str, int]], bool]
"""Whether a view's states may be taken from a checkpoint, by its file name and the view's offsets in it."""


class ViewFold:
    """The states of one view for the keys of a part. `offsets`: the last offset folded, by source partition."""

    def __init__(self, spec: ViewSpec) -> None:
        self.spec = spec
        self.version = version_id(spec)
        self.state = ViewState(spec)
        self.offsets: dict[str, int] = {}

    def load(self, slots: Int64s, saved: Saved) -> None:
        """Take the states of a checkpoint for these slots, of which none has a state yet."""
        self.state.load(slots, saved.blob, saved.at)
        self.offsets = dict(saved.offsets)

    def last(self, partition: str) -> int:
        """The last offset folded of a partition."""
        return self.offsets.get(partition, NOTHING_FOLDED)

    def reach(self, lasts: Iterable[tuple[str, int]]) -> None:
        """Everything up to these offsets (partition, last offset) has been folded."""
        for partition, last in lasts:
            self.offsets[partition] = max(self.last(partition), last)


class PartFold:
    """The states of an entity's views, over one index of the keys.

    `dirty`: slots whose states the online store may not have.
    """

    def __init__(self, specs: Sequence[ViewSpec]) -> None:
        self.views = tuple(map(ViewFold, specs))
        self.states = [view.state for view in self.views]
        self.index = KeyIndex()
        self.dirty = DirtySlots()

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been loaded or folded."""
        return not len(self.index) and not any(view.offsets for view in self.views)

    @property
    def offsets(self) -> list[dict[str, int]]:
        """The offsets of each view."""
        return [view.offsets for view in self.views]

    @property
    def nbytes(self) -> int:
        """Memory of the states and the index, about."""
        return sum(state.nbytes for state in self.states) + 200 * len(self.index)

    def restore(self, folder: CheckpointFolder, names: Sequence[str], trusted: Trusted) -> dict[str, str]:
        """Load each view from the first of these checkpoints that has its version and may be trusted.

        Returns the file name by version loaded.
        """
        missing = {view.version: view for view in self.views}
        loaded: dict[str, str] = {}
        for name in names:
            found = folder.read(name, missing) if missing else None
            if found is None:
                continue
            usable = {v: saved for v, saved in found.views.items() if trusted(name, saved.offsets)}
            if usable:
                slots = self.index.slots(found.keys)
                for version, saved in usable.items():
                    missing.pop(version).load(slots, saved)
                    loaded[version] = name
                self.dirty.add(slots[found.dirty])
        return loaded

    def fold_log(self, piece: LogSlice) -> Int64s:
        """Fold into each view the rows that it does not contain yet; returns their slots.

        Call `reach` after the last slice.
        """
        slots = self.index.slots(piece.rows.keys)
        changed = np.zeros(len(slots), np.bool_)
        for view, columns in zip(self.views, piece.rows.columns, strict=True):
            new = piece.offsets > view.last(piece.partition)
            if new.all():
                view.state.fold(slots, columns)
            elif new.any():
                view.state.fold(slots[new], columns.take(new))
            changed |= new
        found = slots if changed.all() else slots[changed]
        self.dirty.add(found)
        return found

    def reach(self, lasts: Iterable[tuple[str, int]]) -> None:
        """Every row of the log up to these offsets (partition, last offset) has been folded into every view."""
        lasts = list(lasts)
        for view in self.views:
            view.reach(lasts)

    def save(self, folder: CheckpointFolder) -> str:
        """Write a checkpoint; returns its file name."""
        return folder.write(self.index, self.states, self.offsets, self.dirty.all())
