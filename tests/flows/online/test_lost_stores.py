"""Stores that fail: a server set back in time or wiped, a full disk, a damaged file. Longer trials: `make soak`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from feature_repo.errors import DiskError, LogError
from feature_repo.stores.event_log import checksums
from flows.online.outbox import Outbox
from flows.online.rollback_detector import Loss, RollbackDetector, WriteSession, store_progress
from flows.process.disk import as_disk_error
from flows.sources.redis_streams import BusPartition
from tests.flows.sources.test_redis_streams import STREAM, part, read, recheck
from tests.kits.payments import publish
from tests.soak import disk_full, log_damage, redis_older

FIELD = "account_id:00"


HASH = "millstream:written:p:payments"


@pytest.fixture
def detector(clean_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> RollbackDetector:
    monkeypatch.setattr("flows.online.rollback_detector.CHECK_SECONDS", 0.0)
    return RollbackDetector(clean_redis, "p", "payments")


def stored(session: WriteSession, client: redis.Redis) -> None:
    """Send something and store the progress."""
    session.advance()
    assert store_progress(Outbox(client), [session.progress()], client)


def written(detector: RollbackDetector, client: redis.Redis, known: int = 0) -> int:
    """A writer starts, sends something and stores its progress, whose number is returned."""
    session = detector.start(FIELD, known)
    stored(session, client)
    return session.number


def test_store_that_has_everything_lost_nothing(detector: RollbackDetector, clean_redis: redis.Redis) -> None:
    number = written(detector, clean_redis)
    again = detector.start(FIELD, number)
    assert again.loss is Loss.NONE
    assert detector.check(again) is None


def test_first_start_writes_everything(detector: RollbackDetector) -> None:
    assert detector.start(FIELD, 0).loss is Loss.POSSIBLE


def test_older_store_is_detected_at_the_start(detector: RollbackDetector, clean_redis: redis.Redis) -> None:
    number = written(detector, clean_redis)
    before = clean_redis.dump(HASH)
    number = written(detector, clean_redis, number)
    clean_redis.restore(HASH, 0, before, replace=True)  # type: ignore[arg-type]
    assert detector.start(FIELD, number).loss is Loss.CERTAIN


def test_older_store_is_detected_while_the_flow_runs(
    detector: RollbackDetector, clean_redis: redis.Redis
) -> None:
    session = detector.start(FIELD, 0)
    stored(session, clean_redis)
    before = clean_redis.dump(HASH)
    stored(session, clean_redis)
    assert detector.check(session) is None
    clean_redis.restore(HASH, 0, before, replace=True)  # type: ignore[arg-type]
    renewed = detector.check(session)
    assert renewed is not None
    assert renewed.loss is Loss.CERTAIN
    assert renewed.number >= session.number


def test_writer_killed_while_it_writes_everything_again_starts_over(
    detector: RollbackDetector, clean_redis: redis.Redis
) -> None:
    number = written(detector, clean_redis)
    clean_redis.flushall()
    assert detector.start(FIELD, number).loss is Loss.CERTAIN
    assert detector.start(FIELD, number).loss is Loss.CERTAIN  # killed before its first epoch was durable
    number = written(detector, clean_redis, number)
    assert detector.start(FIELD, number).loss is Loss.NONE


def test_emptied_store_is_detected_while_the_flow_runs_and_takes_no_progress(
    detector: RollbackDetector, clean_redis: redis.Redis
) -> None:
    session = detector.start(FIELD, 0)
    clean_redis.flushall()
    stored(session, clean_redis)
    assert clean_redis.hgetall(HASH) == {}
    with capture_logs() as logs:
        renewed = detector.check(session)
    assert "emptied" in logs[-1]["why"]
    assert renewed is not None
    assert renewed.loss is Loss.CERTAIN
    assert detector.check(renewed) is None


def test_progress_of_another_run_of_the_server_is_dropped(
    detector: RollbackDetector, clean_redis: redis.Redis
) -> None:
    session = detector.start(FIELD, 0)
    session.id = f"0123.{session.id.partition('.')[2]}"
    clean_redis.hset(HASH, FIELD, f"{session.id} -1")
    stored(session, clean_redis)
    assert clean_redis.hget(HASH, FIELD) == f"{session.id} -1".encode()
    with capture_logs() as logs:
        renewed = detector.check(session)
    assert "restarted" in logs[-1]["why"]
    assert renewed is not None
    assert renewed.loss is Loss.POSSIBLE


def test_progress_of_an_earlier_session_is_dropped(
    detector: RollbackDetector, clean_redis: redis.Redis
) -> None:
    earlier = detector.start(FIELD, 0)
    detector.start(FIELD, 0)
    before = clean_redis.hget(HASH, FIELD)
    stored(earlier, clean_redis)
    assert clean_redis.hget(HASH, FIELD) == before


def test_bus_that_went_back_in_time_with_its_server_is_read_on(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"a", b"b"])
    source = part()
    read(source)
    recheck(source)
    read(source)
    before = {key: clean_redis.dump(key) for key in clean_redis.keys("*")}  # type: ignore[union-attr]
    publish(clean_redis, [b"c", b"d", b"e"])
    assert read(source) == [b"c", b"d", b"e"]
    state = source.snapshot()
    for key, dumped in before.items():
        clean_redis.restore(key, 0, dumped, replace=True)  # type: ignore[arg-type]
    time.sleep(0.005)  # ids are milliseconds, and no server is back within the one it went away in
    publish(clean_redis, [b"f"])
    on = part(state)
    assert read(on) == [b"f"]
    assert isinstance(on, BusPartition)
    publish(clean_redis, [b"g"])
    assert read(part(on.snapshot())) == [b"g"]
    assert clean_redis.xlen(STREAM) == 4


def test_seal_is_of_every_byte(home: Path) -> None:
    assert "refused" in log_damage.file_trial(2, sample=150)


def test_copy_with_other_tools_passes_and_a_cut_one_does_not(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    table = pa.table({"a": [1, 2]}).replace_schema_metadata({checksums.CRC_KEY: checksums.UNSEALED})
    pq.write_table(table, path)
    checksums.seal(path)
    checksums.check([path])
    pq.write_table(pq.read_table(path), path)
    checksums.check([path])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LogError, match=r"a\.parquet"):
        checksums.check([path])


def test_what_the_recovery_store_says_of_a_full_disk_is_said_in_our_words(tmp_path: Path) -> None:
    said = as_disk_error(RuntimeError('SqliteFailure(..., Some("database or disk is full"))'), tmp_path)
    assert isinstance(said, DiskError)
    assert "Make room on that disk" in str(said)
    assert as_disk_error(RuntimeError("something else"), tmp_path) is None


@pytest.mark.parametrize("seed", [0, 1], ids=["under a running flow", "while the flow is down"])
def test_lost_writes_of_the_server_are_repaired(seed: int) -> None:
    redis_older.trial(seed)


@pytest.mark.parametrize("seed", [1, 2], ids=["no room", "no rights"])
def test_disk_that_cannot_be_written_stops_the_flow_and_loses_nothing(seed: int) -> None:
    assert "events once each" in disk_full.trial(seed)
