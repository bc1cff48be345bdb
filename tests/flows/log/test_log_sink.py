"""The exactly-once files: when they become visible, what a restart does, when it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.errors import DeadLetterLimit, LogError
from feature_repo.streams.payments import PAYMENTS
from flows.accept.decode import Decoder
from flows.blocks import RawBlock
from flows.bootstrap import run
from flows.log.epoch_files import Folders, StagedPart, StagedState
from flows.log.files import LogFile, log_files
from flows.settings import FlowSettings
from tests.kits.flow_output import dead_letter_rows, log_rows
from tests.kits.payments import as_table, encoded, payment, write_lines


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders("payments", tmp_path / "log", tmp_path / "staging")


def rows(*numbers: int) -> pa.RecordBatch:
    payloads = [encoded(payment(n)) for n in numbers]
    block = RawBlock(
        "bus:payments:0", -1, np.array(numbers, np.int64), np.zeros(len(numbers), np.int64), payloads
    )
    return Decoder(PAYMENTS)(block).rows


def part(folders: Folders, state: StagedState | None = None) -> StagedPart:
    return StagedPart("bus", folders, PAYMENTS.decoded, state)


def visible(folders: Folders) -> list[int]:
    return sorted(
        n for f in folders.published.glob("*") for n in pq.read_table(f)["source_offset"].to_pylist()
    )


def test_events_become_visible_one_epoch_later(folders: Folders) -> None:
    sink = part(folders)
    sink.write_batch([rows(1, 2)])
    sink.snapshot()
    assert visible(folders) == []
    sink.write_batch([rows(3)])
    sink.snapshot()
    assert visible(folders) == [1, 2]


def test_heartbeat_publishes_the_last_file_without_another_event(folders: Folders) -> None:
    sink = part(folders)
    sink.write_batch([rows(1)])
    sink.snapshot()
    sink.write_batch([rows()])
    assert sink.snapshot() == {"seq": 1, "pending": []}
    assert visible(folders) == [1]


def test_restart_publishes_what_its_durable_epoch_had_staged(folders: Folders) -> None:
    sink = part(folders)
    sink.write_batch([rows(1, 2)])
    part(folders, sink.snapshot())
    assert visible(folders) == [1, 2]


def test_restart_removes_what_never_became_durable(folders: Folders) -> None:
    sink = part(folders)
    sink.write_batch([rows(1)])
    durable = sink.snapshot()
    sink.write_batch([rows(2)])
    sink.snapshot()
    (folders.staging / ".bus-0000000009.parquet.tmp").write_bytes(b"half a file")
    again = part(folders, durable)
    assert list(folders.staging.iterdir()) == []
    again.write_batch([rows(2)])
    again.snapshot()
    again.snapshot()
    assert visible(folders) == [1, 2]


def test_restart_leaves_the_staged_files_of_other_parts_alone(folders: Folders) -> None:
    other = StagedPart("bus-2", folders, PAYMENTS.decoded, None)
    other.write_batch([rows(1)])
    pending = other.snapshot()["pending"]
    part(folders)
    assert [path.name for path in folders.staging.iterdir()] == pending


def test_published_files_without_recovery_state_are_refused(folders: Folders) -> None:
    sink = part(folders)
    sink.write_batch([rows(1)])
    sink.snapshot()
    sink.snapshot()
    with pytest.raises(LogError, match="there is no recovery state"):
        part(folders)


def test_recovery_state_older_than_the_log_is_refused(folders: Folders) -> None:
    sink = part(folders)
    sink.write_batch([rows(1)])
    old = sink.snapshot()
    sink.write_batch([rows(2)])
    sink.snapshot()
    sink.snapshot()
    with pytest.raises(LogError, match="the recovery state is older"):
        part(folders, old)


def test_lost_file_of_a_durable_epoch_is_refused(folders: Folders) -> None:
    sink = part(folders)
    sink.write_batch([rows(1)])
    state = sink.snapshot()
    next(folders.staging.glob("*.parquet")).unlink()
    with pytest.raises(LogError, match="neither staged nor published"):
        part(folders, state)


def test_published_file_that_has_gone_is_refused_by_name(folders: Folders) -> None:
    sink = part(folders)
    state = None
    for n in range(3):
        sink.write_batch([rows(n)])
        state = sink.snapshot()
    (folders.published / "bus-0000000001.parquet").unlink()
    with pytest.raises(LogError, match=r"bus-0000000001.parquet is missing, 1 in all"):
        StagedPart("bus", folders, PAYMENTS.decoded, state, complete=True)


def test_file_is_sorted_by_event_time_compressed_and_in_the_log_schema(folders: Folders) -> None:
    sink = part(folders)
    sink.write_batch([rows(5, 9), rows(1, 7)])
    sink.snapshot()
    sink.snapshot()
    path = next(folders.published.glob("*"))
    assert pq.read_table(path)["source_offset"].to_pylist() == [1, 5, 7, 9]
    assert pq.read_schema(path).equals(PAYMENTS.decoded)
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


def test_footer_tells_the_offsets_of_each_partition(home: Path) -> None:
    settings = FlowSettings()
    sink = StagedPart(
        "bus",
        Folders("payments", settings.payments_log, settings.staging / "payments"),
        PAYMENTS.decoded,
        None,
    )
    sink.write_batch([rows(4, 2, 8)])
    sink.snapshot()
    (staged,) = log_files(PAYMENTS, settings)
    assert staged.offsets() == {"bus:payments:0": [2, 8]}
    sink.snapshot()
    assert staged.offsets() == {"bus:payments:0": [2, 8]}


def test_run_over_files_ends_with_everything_published_the_last_epoch_too(home: Path, tmp_path: Path) -> None:
    payloads = [encoded(payment(n)) for n in range(1000)] + [b"{"]
    path = write_lines(tmp_path / "in.jsonl", payloads)
    settings = FlowSettings(source_files=str(path), epoch_ms=100, block_events=100)
    run("payments", settings)
    assert log_rows(settings)["source_offset"].to_pylist() == list(range(1000))
    assert [letter["payload"] for letter in dead_letter_rows(settings)] == [b"{"]
    assert [p for p in settings.staging.rglob("*") if p.is_file()] == []


def test_reading_the_same_files_again_adds_nothing(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(as_table([payment(n) for n in range(500)]), path)
    settings = FlowSettings(source_files=str(path), epoch_ms=100)
    run("payments", settings)
    run("payments", settings)
    assert log_rows(settings).num_rows == 500


def test_flow_of_bad_events_stops_before_it_dead_letters_the_world(home: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", [b"{}"] * 20_000)
    with pytest.raises(DeadLetterLimit, match="MILLSTREAM_DEAD_LETTER_LIMIT"):
        run("payments", FlowSettings(source_files=str(path), epoch_ms=100))


def test_staged_file_that_is_removed_while_somebody_looks_holds_nothing(home: Path) -> None:
    settings = FlowSettings()
    sink = part(Folders("payments", settings.payments_log, settings.staging / "payments"))
    sink.write_batch([rows(1, 2)])
    sink.snapshot()
    (file,) = log_files(replace(PAYMENTS, joins=(), joined=(), program=(), derived=()), settings)
    assert file.read(["event_id"]).num_rows == 2
    (settings.staging / "payments" / file.name).unlink()
    assert file.read(["event_id", "amount"]).equals(
        PAYMENTS.decoded.empty_table().select(["event_id", "amount"])
    )
    again = LogFile(file.name, file._folders, PAYMENTS.decoded)
    assert (again.offsets(), again.rows(), again.holds_some({"bus:payments:0": (-1, 9)})) == ({}, 0, False)


def test_published_file_that_is_gone_is_an_error(home: Path) -> None:
    settings = FlowSettings()
    sink = part(Folders("payments", settings.payments_log, settings.staging / "payments"))
    sink.write_batch([rows(1, 2)])
    sink.snapshot()
    sink.snapshot()
    (file,) = log_files(PAYMENTS, settings)
    (settings.payments_log / file.name).unlink()
    with pytest.raises(LogError, match="vanished"):
        file.rows()
