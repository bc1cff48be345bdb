"""From a source's block to events that may enter: decode, check, personal columns; what a stream's flow and its followers share."""

from __future__ import annotations

from typing import Final

from feature_repo import privacy
from feature_repo.settings import PROJECT_ROOT
from flows.blocks import Events, SourceBlock
from flows.details import teller
from flows.settings import FlowSettings
from flows.steps.check import Checker, load_suite
from flows.steps.decode import Decoder
from flows.steps.private import Private
from flows.steps.settle import Settle
from flows.streams import EventStream
from flows.tombstones import Door

SUITES: Final = PROJECT_ROOT / "feature_repo" / "expectations"


class Acceptance:
    """The steps before admission, which look at one block only; call it with a block."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self.pseudonyms = privacy.of_settings(settings)
        tell = teller(stream, self.pseudonyms)
        self.decode = Decoder(stream, tell)
        self.check = Checker(load_suite(stream.suite or SUITES / f"{stream.name}.json", stream.schema), tell)
        self.private = Private(stream, self.pseudonyms, Door(stream, settings.home, self.pseudonyms))
        self.settle = Settle(stream)

    def __call__(self, block: SourceBlock) -> Events:
        """The events of a block that hold, without personal columns; the others are its dead letters."""
        return self.settle(self.private(self.check(self.decode(block))))
