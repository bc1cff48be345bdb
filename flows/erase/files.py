"""Erase rows from files: log and dead letters (published and staged), checkpoints and score log.

A Parquet file is rewritten in another folder and renamed over the old one, so that readers see one or the other. Its
name, the order of its rows and its offsets stay: recovery counts files by name and finds its position by offsets. A
file without rows stays, empty.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.files import open_locked, replaced, sync
from feature_repo.stores.event_log.checksums import CRC_KEY, UNSEALED, check, seal
from feature_repo.windows.state import KeyIndex
from flows.blocks import Mask
from flows.erase.people import People, Touched
from flows.log import dead_letters
from flows.log.epoch_files import (
    ERASED_KEY,
    NEWEST_KEY,
    OFFSETS_KEY,
    ROW_GROUP_ROWS,
    Folders,
    offset_ranges,
)
from flows.privacy.payload_cipher import PayloadCipher
from flows.settings import FlowSettings
from flows.streams import EventStream
from flows.window_state.checkpoints import CheckpointFolder

_CHECKPOINT: Final = re.compile(r"(.*?-\d\d)-\d{8}-.*\.npz")


@dataclass(frozen=True)
class Affected:
    """A file and the number of its rows to erase."""

    path: Path
    rows: int


class LogFiles:
    """The log of one stream."""

    def __init__(self, stream: EventStream, settings: FlowSettings, people: People, touched: Touched) -> None:
        self._stream, self._people, self._touched = stream, people, touched
        self._folders = Folders(stream.name, stream.log_folder(settings), stream.staging_folder(settings))
        self._wanted = (*stream.parties, *stream.refers_to)
        self.newest_us = -(2**63)
        """Highest event time of the rows found (us)."""

    def survey(self) -> Iterator[Affected]:
        """Yield the files with rows to erase; add payments and key values of these rows to `people` and `touched`."""
        for path in _files(self._folders):
            check([path])
            with pq.ParquetFile(path) as file:
                there = set(file.schema_arrow.names)
                rows = file.read([c for c in self._wanted if c in there])
                found = self._people.rows(self._stream, rows)
                if not found.any():
                    continue
                wanted = {
                    "event_timestamp",
                    self._stream.id_column,
                    *self._touched.columns(self._stream.name),
                    *rows.schema.names,
                }
                theirs = file.read(sorted(wanted & there)).filter(pa.array(found))
            self._people.learn(self._stream, theirs)
            self._touched.add(self._stream, theirs)
            self.newest_us = max(self.newest_us, pc.max(theirs["event_timestamp"]).value)
            yield Affected(path, theirs.num_rows)

    def erase(self, path: Path) -> int:
        """Rewrite one file; return the number of rows erased."""
        with pq.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            found = self._people.rows(self._stream, file.read([c for c in self._wanted if c in there]))
        return rewrite(path, self._folders.staging, ~found) if found.any() else 0


class DeadLetterFiles:
    """The dead letters of one stream."""

    def __init__(self, stream: EventStream, settings: FlowSettings, people: People) -> None:
        self._stream, self._people = stream, people
        self._folders = dead_letters.folders(stream, settings)
        keyed = people.pseudonyms.keyed
        self._cipher = PayloadCipher(stream.name, people.pseudonyms) if keyed else None

    def survey(self) -> Iterator[Affected]:
        """The files with letters to erase; learns from events among them."""
        for path in _files(self._folders):
            check([path])
            letters = pq.ParquetFile(path).read(["payload", "detail", "source_partition", "source_offset"])
            rows = int(self._found(letters, learn=True).sum())
            if rows:
                yield Affected(path, rows)

    def erase(self, path: Path) -> int:
        """Rewrite one file; return the number of letters erased."""
        letters = pq.ParquetFile(path).read(["payload", "detail", "source_partition", "source_offset"])
        found = self._found(letters)
        return rewrite(path, self._folders.staging, ~found) if found.any() else 0

    def _found(self, letters: pa.Table, *, learn: bool = False) -> Mask:
        found = np.zeros(letters.num_rows, bool)
        for i, row in enumerate(letters.to_pylist()):
            payload = row["payload"]
            if payload is not None and self._cipher is not None:
                payload = self._cipher.decrypt(payload, row["source_partition"], row["source_offset"])
            found[i] = self._people.in_detail(row["detail"] or "")
            if payload is not None and self._people.in_text(payload):
                found[i] = True
                if learn:
                    self._people.learn_payload(self._stream, payload)
        return found


def rewrite(path: Path, aside_in: Path, keep: Mask) -> int:
    """Rewrite a file with the rows of the mask `keep`; return the number of rows erased.

    The footer keeps the offsets and newest times of the old file, and counts the erased rows.
    """
    with pq.ParquetFile(path) as file:
        table = file.read()
    gone = table.filter(pa.array(~keep))
    kept = table.filter(pa.array(keep)).combine_chunks()
    notes = dict(table.schema.metadata or {})
    if OFFSETS_KEY not in notes:
        notes[OFFSETS_KEY] = json.dumps(offset_ranges(table)).encode()
    if NEWEST_KEY not in notes:
        newest = table.group_by("source_partition").aggregate([("event_timestamp", "max")])
        times = newest["event_timestamp_max"].cast(pa.int64()).to_pylist()
        pairs = zip(newest["source_partition"].to_pylist(), times, strict=True)
        notes[NEWEST_KEY] = json.dumps({p: t for p, t in pairs if t is not None}).encode()
    erased = Counter(json.loads(notes.get(ERASED_KEY, b"{}")))
    erased.update(gone["source_partition"].to_pylist())
    notes[ERASED_KEY] = json.dumps(erased).encode()
    notes[CRC_KEY] = UNSEALED
    aside_in.mkdir(parents=True, exist_ok=True, mode=0o700)
    with replaced(path, folder=aside_in) as file:
        pq.write_table(
            kept.replace_schema_metadata(notes), file, compression="zstd", row_group_size=ROW_GROUP_ROWS
        )
        seal(file)
    return int(gone.num_rows)


def remove_leftovers(settings: FlowSettings) -> None:
    """Remove unfinished files of killed flows or erasures; no flow runs, so none of them is in use."""
    for folder in (settings.staging, settings.checkpoints, settings.scores):
        for path in folder.rglob(".*.tmp") if folder.is_dir() else ():
            path.unlink(missing_ok=True)


def remove_checkpoints(settings: FlowSettings) -> int:
    """Remove all checkpoints and return their number; the parts fold the log again at their next start.

    An empty checkpoint stays for each part, so that numbers are not reused: recovery state refers to checkpoints by
    name.
    """
    removed = 0
    for folder in sorted(settings.checkpoints.glob("*")):
        names = [path.name for path in folder.iterdir() if _CHECKPOINT.fullmatch(path.name)]
        for part in sorted({found[1] for name in names if (found := _CHECKPOINT.fullmatch(name))}):
            checkpoints = CheckpointFolder(folder, part, "erased", settings.key_shards)
            empty = checkpoints.write(KeyIndex(), [], [], np.empty(0, np.int64))
            mine = [n for n in names if (m := _CHECKPOINT.fullmatch(n)) and m[1] == part and n != empty]
            for name in mine:
                (folder / name).unlink(missing_ok=True)
            removed += sum(not name.endswith("-erased.npz") for name in mine)
        sync(folder)
    return removed


def holds_names(settings: FlowSettings, people: People) -> bool:
    """Return whether a checkpoint contains a key of the accounts, even if the log has no rows of them."""
    wanted = [name.encode() for name in people.names]
    return any(
        name in content
        for path in settings.checkpoints.rglob("*.npz")
        for content in [path.read_bytes()]
        for name in wanted
    )


class ScoreFiles:
    """The score log: JSON lines.

    A scorer may be writing: both lock the file, and the scorer opens it for each write.
    """

    def __init__(self, settings: FlowSettings, people: People) -> None:
        self._folder = settings.scores
        self._wanted = [orjson.dumps(name) for name in sorted(people.names)]

    def survey(self) -> Iterator[Affected]:
        """Yield the files with lines to erase."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                lines = sum(self._theirs(line) for line in file)
            if lines:
                yield Affected(path, lines)

    def erase(self, path: Path) -> int:
        """Rewrite one file; return the number of lines erased."""
        gone = 0
        with open_locked(path, "rb") as file, replaced(path) as temporary, temporary.open("wb") as out:
            for line in file:
                if self._theirs(line):
                    gone += 1
                else:
                    out.write(line)
        return gone

    def _theirs(self, line: bytes) -> bool:
        return any(name in line for name in self._wanted)


def _files(folders: Folders) -> list[Path]:
    """Return published and staged files in order of name."""
    found = [p for folder in (folders.staging, folders.published) for p in folder.glob("*.parquet")]
    return sorted(path for path in found if not path.name.startswith("."))
