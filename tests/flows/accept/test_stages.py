"""Blocks that go through the steps together come out as each by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_repo.streams.payments import PAYMENTS
from flows.accept.stages import Acceptance
from flows.blocks import RawBlock, SourceBlock
from flows.settings import FlowSettings
from tests.kits.payments import encoded, payment


def block(partition: int, numbers: range, broken: bytes | None = None) -> RawBlock:
    payloads = [encoded(payment(n, type="PAYMENT" if n % 3 else "TRANSFER")) for n in numbers]
    payloads += [broken] if broken is not None else []
    places = np.arange(len(payloads)) + 1_000 * partition
    return RawBlock(f"bus:payments:{partition}", -1, places, places + 1_793_491_200_000_000, payloads)


EMPTY = RawBlock("bus:payments:3", 7, np.empty(0, np.int64), np.empty(0, np.int64), [])

TURNS = {
    "one block": [block(0, range(5))],
    "several": [block(0, range(5)), block(1, range(9)), block(2, range(1))],
    "a heartbeat among them": [block(0, range(5)), EMPTY, block(1, range(9))],
    "one with a broken event": [block(0, range(5)), block(1, range(9), b"{"), block(2, range(3))],
    "one with an event that fails a check": [
        block(0, range(5)),
        block(1, range(9), encoded(payment(1, amount=-1.0))),
    ],
    "offsets that go back, and an event that fails a check": [
        block(2, range(5)),
        block(0, range(5)),
        block(0, range(7), encoded(payment(1, amount=-1.0))),
    ],
    "large ones": [block(0, range(3_000)), block(1, range(3_000))],
    "only heartbeats": [EMPTY, EMPTY],
    "none": [],
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_a_turn_is_its_blocks(turn: list[SourceBlock], home: Path) -> None:
    accept = Acceptance(PAYMENTS, FlowSettings(home=home))
    for found, alone in zip(accept.accept_blocks(turn), map(accept, turn), strict=True):
        assert found.partition == alone.partition
        assert found.origin is alone.origin
        assert found.rows.equals(alone.rows)
        assert [letters.to_pylist() for letters in found.dead] == [
            letters.to_pylist() for letters in alone.dead
        ]
