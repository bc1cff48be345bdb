"""Files as a source: one partition per file, offsets are rows, reading resumes in the middle."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_repo.errors import DataError, SchemaError, SettingsError
from flows.blocks import ArrowBlock, RawBlock
from flows.bootstrap import run
from flows.settings import FlowSettings
from flows.sources.files import FilePartition, FileSource, count_rows, part_name
from tests.kits.flow_output import log_rows
from tests.kits.payments import as_table, encoded, payment, write_lines


def offsets(part: FilePartition) -> list[int]:
    """Offsets of the next block."""
    found: list[int] = []
    for block in part.next_batch():
        if isinstance(block, ArrowBlock):
            found += range(block.first_offset, block.first_offset + block.rows.num_rows)
        else:
            found += block.offsets.tolist()
    return found


def opened(path: Path, state: tuple[int, int] | None = None, **options: int) -> FilePartition:
    settings = FlowSettings(**options)  # type: ignore[arg-type]
    source = FileSource((path,), settings)
    return source.build_part("source", source.list_parts()[0], state)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "p.parquet"
    pq.write_table(as_table([payment(n) for n in range(100)]), path, row_group_size=30)
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"".join(encoded(payment(n)) + (b"\r\n\n" if n % 3 else b"\n") for n in range(20)))
    return path


def test_parquet_resumes_in_the_middle_at_any_row(home: Path, parquet: Path) -> None:
    whole = opened(parquet, file_block_events=7)
    seen: list[int] = []
    while block := offsets(whole):
        seen += block
        state = whole.snapshot()
        rest = offsets(opened(parquet, state, file_block_events=1000))
        assert rest == list(range(state[0], 100))[: len(rest)]
        assert not rest or rest[0] == seen[-1] + 1
    assert seen == list(range(100))


def test_json_lines_resume_in_the_middle_and_skip_empty_lines(home: Path, lines: Path) -> None:
    whole = opened(lines, block_events=6)
    first = whole.next_batch()[0]
    assert isinstance(first, RawBlock)
    rest = opened(lines, whole.snapshot(), block_events=1000).next_batch()[0]
    assert isinstance(rest, RawBlock)
    assert [*first.payloads, *rest.payloads] == [encoded(payment(n)) for n in range(20)]
    assert first.offsets[-1] == rest.began
    assert len({*first.offsets.tolist(), *rest.offsets.tolist()}) == 20


def test_file_ends_two_epochs_after_its_last_row(home: Path, parquet: Path) -> None:
    part = opened(parquet)
    while offsets(part):
        pass
    part.snapshot()
    assert part.next_batch()
    part.snapshot()
    with pytest.raises(StopIteration):
        part.next_batch()


def test_epoch_of_a_file_holds_at_most_its_events(home: Path, parquet: Path) -> None:
    part = opened(parquet, file_block_events=20, epoch_events=40)
    assert [len(offsets(part)) for _ in range(4)] == [20, 20, 0, 0]
    part.snapshot()
    assert offsets(part)[0] == 40


def test_changed_file_is_another_partition(home: Path, parquet: Path) -> None:
    before = part_name(parquet)
    assert before.startswith("file:p.parquet:")
    pq.write_table(as_table([payment(n) for n in range(100, 200)]), parquet)
    assert part_name(parquet) != before


def test_rows_are_counted_without_reading_them(parquet: Path, lines: Path) -> None:
    assert (count_rows(parquet), count_rows(lines)) == (100, 20)


def test_missing_file_is_an_error_that_names_it(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.parquet"):
        FileSource((tmp_path / "nowhere.parquet",), FlowSettings())


def test_file_that_is_no_parquet_is_an_error_that_names_it(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 this is not")
    with pytest.raises(DataError, match=r"broken\.parquet"):
        opened(path).next_batch()


def test_two_files_and_an_empty_one_run_to_their_end(home: Path, tmp_path: Path) -> None:
    paths = []
    for name, numbers in {"a": range(50), "b": range(50, 80), "c": range(0)}.items():
        pq.write_table(as_table([payment(n) for n in numbers]), tmp_path / f"{name}.parquet")
        paths.append(tmp_path / f"{name}.parquet")
    paths.append(write_lines(tmp_path / "d.jsonl", [encoded(payment(n)) for n in range(80, 90)]))
    settings = FlowSettings(source_files=FlowSettings.join_files(paths), epoch_ms=100)
    run("payments", settings)
    rows = log_rows(settings)
    assert sorted(rows["event_id"].to_pylist()) == [payment(n)["event_id"] for n in range(90)]
    assert len(set(rows["source_partition"].to_pylist())) == 3


def test_file_of_another_kind_stops_the_run_with_our_error(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pq.write_table(as_table([payment(1)]).drop_columns(["amount"]), path)
    with pytest.raises(SchemaError, match="no column amount"):
        run("payments", FlowSettings(source_files=str(path), epoch_ms=100))
