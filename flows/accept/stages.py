"""From a source's block to valid events: decode, check, pseudonymise, normalise.

A stream's own flow and the joins that follow it share these.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from feature_repo import privacy
from flows.accept.avro import avro_reader
from flows.accept.check import Checker, compile_suite
from flows.accept.decode import Decoder
from flows.accept.normalize_changelog import ChangelogNormalizer
from flows.accept.pseudonymise import Pseudonymiser
from flows.blocks import Events, Payloads, RawBlock, SourceBlock
from flows.privacy.redaction import describer
from flows.privacy.tombstones import ErasedAccountFilter
from flows.settings import FlowSettings
from flows.streams import EventStream

MAX_JOINED_EVENTS: Final = 4_096
"""Most events of small blocks that are processed as one."""


class Acceptance:
    """The steps before admission, which need one block only."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self.pseudonyms = privacy.of_settings(settings)
        describe = describer(stream, self.pseudonyms)
        avro = None if settings.files else avro_reader(stream, settings)
        self.decode = Decoder(stream, describe, avro)
        self.check = Checker(compile_suite(stream.suite, stream.schema), describe)
        self.pseudonymise = Pseudonymiser(
            stream, self.pseudonyms, ErasedAccountFilter(stream, settings.home, self.pseudonyms)
        )
        self.normalize = ChangelogNormalizer(stream)

    def __call__(self, block: SourceBlock) -> Events:
        """Return the valid events of a block, without plain personal values; the others are its dead letters."""
        return self.normalize(self.pseudonymise(self.check(self.decode(block))))

    def accept_blocks(self, blocks: list[SourceBlock]) -> list[Events]:
        """Return the events of each block, as `__call__` does.

        Small blocks of several partitions go through the steps as one, since a step costs a few tenths of a
        millisecond, whatever the size of a block. If one of their events is not valid, which is rare, each block goes
        by itself.
        """
        small = [
            b for b in blocks if isinstance(b, RawBlock) and b.accepted_us is not None and len(b.payloads)
        ]
        if len(small) < 2 or sum(len(b.payloads) for b in small) > MAX_JOINED_EVENTS:
            return [self(block) for block in blocks]
        found = dict(zip(map(id, small), self._accept_joined(small), strict=False))
        return [found[id(block)] if id(block) in found else self(block) for block in blocks]

    def _accept_joined(self, blocks: list[RawBlock]) -> list[Events]:
        """Return the events of each block; an empty list if any event is not valid."""
        joined = RawBlock(
            "",
            -1,
            np.arange(
                sum(len(b.payloads) for b in blocks)
            ),  # partitions may have the same offsets, and go back
            np.concatenate([b.accepted_us for b in blocks if b.accepted_us is not None]),
            joined_payloads([Payloads.of(b.payloads) for b in blocks]),
        )
        events = self(joined)
        rows = events.rows
        if events.dead or rows.num_rows < len(joined.payloads):
            return []
        names = ("source_partition", "source_offset")
        made, start = [], 0
        for block in blocks:
            n = len(block.payloads)
            places = (pa.repeat(pa.scalar(block.partition, pa.string()), n), pa.array(block.offsets))
            mine = rows.slice(start, n)
            for name, column in zip(names, places, strict=True):
                at = rows.schema.get_field_index(name)
                mine = mine.set_column(at, rows.schema.field(at), column)
            made.append(Events(block.partition, mine, origin=block))
            start += n
        return made


def joined_payloads(parts: list[Payloads]) -> Payloads:
    """Copy the payloads of several blocks into one buffer."""
    sizes = np.array([len(part.data) for part in parts])
    shifts = np.cumsum(sizes) - sizes
    return Payloads(
        np.concatenate([part.data for part in parts]),
        np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.ends + shift for part, shift in zip(parts, shifts, strict=True)]),
    )
