"""Late, future, duplicate: decided by event time and accept time alone, the same however events are cut into blocks."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feature_repo.streams.payments import PAYMENTS
from flows.accept.admit import Admission
from flows.accept.decode import Decoder
from flows.blocks import ArrowBlock, Events, RawBlock
from flows.log.epoch_files import Folders, StagedPart
from flows.settings import FlowSettings
from tests.kits.payments import START, as_table, encoded, payment

START_US = int(START.timestamp()) * 1_000_000
MINUTE = 60
decode = Decoder(PAYMENTS)


def block(events: list[tuple[str, float]], first: int = 0, accepted_after: float | None = None) -> RawBlock:
    """Events as (id, seconds after START), accepted at their event time or `accepted_after` seconds after START."""
    payloads = [encoded(payment(0, START + timedelta(seconds=at), event_id=name)) for name, at in events]
    accepted = [
        START_US + round(1e6 * (at if accepted_after is None else accepted_after)) for _, at in events
    ]
    offsets = np.arange(first, first + len(events))
    return RawBlock("bus:payments:0", first - 1, offsets, np.array(accepted, np.int64), payloads)


def admit(admission: Admission, *blocks: RawBlock) -> tuple[list[int], list[tuple[int, str]]]:
    """(accepted offsets, (offset, reason) of dead letters)."""
    out, _ = admission.on_batch([decode(b) for b in blocks])
    return accepted(out), rejected(out)


def accepted(out: list[Events]) -> list[int]:
    return [offset for events in out for offset in events.rows["source_offset"].to_pylist()]


def rejected(out: list[Events]) -> list[tuple[int, str]]:
    return [
        (row["source_offset"], row["reason"]) for e in out for batch in e.dead for row in batch.to_pylist()
    ]


def fresh(**options: Any) -> Admission:
    return Admission(PAYMENTS, FlowSettings(**options), "bus", None)


def test_event_at_the_lateness_is_admitted_and_one_beyond_is_late(home: Path) -> None:
    events = [("a", 3600), ("b", 3600 - 10 * MINUTE), ("c", 3600 - 10 * MINUTE - 0.000001)]
    assert admit(fresh(), block(events)) == ([0, 1], [(2, "late")])


def test_lateness_is_measured_from_what_came_before_not_after(home: Path) -> None:
    assert admit(fresh(), block([("a", 0), ("b", 3600), ("c", 0)])) == ([0, 1], [(2, "late")])


def test_event_ahead_of_its_accept_time_is_future_and_moves_no_watermark(home: Path) -> None:
    events = [("a", 0), ("b", 5 * MINUTE), ("c", 5 * MINUTE + 1), ("d", 0)]
    assert admit(fresh(), block(events, accepted_after=0)) == ([0, 1, 3], [(2, "future")])


def test_file_has_no_clock_so_nothing_in_it_is_future(home: Path) -> None:
    table = as_table([payment(1, START + timedelta(days=9000))])
    rows = table.combine_chunks().to_batches()[0]
    out, _ = fresh().on_batch([decode(ArrowBlock("file:x:0", -1, 0, rows))])
    assert accepted(out) == [0]


def test_same_id_again_is_a_duplicate_in_one_block_and_across_blocks(home: Path) -> None:
    admission = fresh()
    assert admit(admission, block([("a", 0), ("a", 1), ("b", 2)])) == ([0, 2], [(1, "duplicate")])
    assert admit(admission, block([("b", 2), ("c", 3)], first=3)) == ([4], [(3, "duplicate")])


def test_duplicate_with_another_time_moves_no_watermark(home: Path) -> None:
    admission = fresh()
    events = [("a", 0), ("a", 3600), ("b", 0)]
    assert admit(admission, block(events)) == ([0, 2], [(1, "duplicate")])
    assert admission.snapshot() == (START_US, 2)


def test_copy_of_a_late_event_is_late_not_duplicate(home: Path) -> None:
    admission = fresh()
    admit(admission, block([("a", 0), ("b", 3600)]))
    assert admit(admission, block([("a", 0)], first=2)) == ([], [(2, "late")])


def test_detail_says_how_far_behind_which_watermark(home: Path) -> None:
    out, _ = fresh().on_batch([decode(block([("a", 3600), ("b", 0)]))])
    detail = out[0].dead[0]["detail"][0].as_py()
    assert "2026-11-01T00:00:00Z is 1:00:00 behind the watermark 2026-11-01T01:00:00Z" in detail


def test_ids_are_forgotten_so_memory_is_bounded(home: Path) -> None:
    admission = fresh(allowed_lateness_seconds=60)
    for i in range(200):
        admit(admission, block([(f"e{i}-{k}", i * 10 + k) for k in range(10)], first=i * 10))
    recent = admission._recent
    assert recent is not None
    assert len(recent._young) + len(recent._old) <= 10 * 2 * 10


def oracle(events: list[tuple[str, float]], accepts: list[float], lateness: float) -> list[str]:
    """The rules again, event by event."""
    watermark, seen, verdicts = float("-inf"), {}, []  # type: ignore[var-annotated]
    for (name, at), accept in zip(events, accepts, strict=True):
        if at > accept + 300:
            verdicts.append("future")
            continue
        if at < watermark - lateness:
            verdicts.append("late")
        elif seen.get(name, float("-inf")) >= watermark - lateness and name in seen:
            verdicts.append("duplicate")
        else:
            verdicts.append("ok")
            seen[name] = max(at, seen.get(name, float("-inf")))
            watermark = max(watermark, at)
    return verdicts


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.integers(0, 1500), st.integers(0, 1500)),
        min_size=1,
        max_size=30,
    ),
    st.lists(st.integers(1, 6), min_size=30, max_size=30),
)
def test_verdicts_equal_the_rules_however_events_are_cut_into_blocks(
    drawn: list[tuple[str, int, int]], cuts: list[int]
) -> None:
    events = [(name, float(at)) for name, at, _ in drawn]
    accepts = [float(a) for _, _, a in drawn]
    admission = fresh(allowed_lateness_seconds=300)
    verdicts: dict[int, str] = {}
    at = 0
    for size in cuts:
        some = events[at : at + size]
        if not some:
            break
        raw = block(some, first=at)
        when = np.array([START_US + round(1e6 * a) for a in accepts[at : at + size]], np.int64)
        ok, bad = admit(admission, RawBlock(raw.partition, raw.began, raw.offsets, when, raw.payloads))
        verdicts |= dict.fromkeys(ok, "ok") | dict(bad)
        at += len(some)
    assert [verdicts[i] for i in range(at)] == oracle(events, accepts, 300)[:at]


@pytest.mark.parametrize("published", [True, False], ids=["published", "staged"])
def test_restart_reads_the_recent_ids_back_from_the_log(home: Path, published: bool) -> None:
    settings = FlowSettings()
    sink = StagedPart(
        "bus",
        Folders("payments", settings.payments_log, settings.staging / "payments"),
        PAYMENTS.decoded,
        None,
    )
    admission = fresh()
    for i in range(5):
        out, _ = admission.on_batch(
            [decode(block([(f"e{i}-{k}", i * 300 + k) for k in range(3)], first=i * 3))]
        )
        sink.write_batch([events.rows for events in out])
        sink.snapshot()
    if published:
        sink.snapshot()
    pointer = admission.snapshot()
    again = Admission(PAYMENTS, settings, "bus", pointer)
    copies = [("e4-2", 1202.0), ("e3-0", 900.0), ("e2-2", 602.0), ("e2-1", 601.0), ("new", 1203.0)]
    assert admit(again, block(copies, first=15)) == (
        [19],
        [(15, "duplicate"), (16, "duplicate"), (17, "duplicate"), (18, "late")],
    )


def test_restart_ignores_log_rows_beyond_its_pointer(home: Path) -> None:
    settings = FlowSettings()
    sink = StagedPart(
        "bus",
        Folders("payments", settings.payments_log, settings.staging / "payments"),
        PAYMENTS.decoded,
        None,
    )
    admission = fresh()
    admit(admission, block([("a", 0)]))
    pointer = admission.snapshot()
    out, _ = admission.on_batch([decode(block([("b", 1)], first=1))])
    sink.write_batch([events.rows for events in out])
    sink.snapshot()
    sink.snapshot()
    assert pq.read_table(settings.payments_log).num_rows == 1
    assert admit(Admission(PAYMENTS, settings, "bus", pointer), block([("b", 1)], first=1)) == ([1], [])
