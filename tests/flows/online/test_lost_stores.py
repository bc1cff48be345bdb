"""What the flow does when its stores fail it: a server set back in time or wiped, a full disk, a damaged file. In full: `make soak`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from feature_repo.errors import DiskError, LogError
from feature_repo.stores.event_log import checksums
from flows.online.loss_detector import StoreWatch, write_marks
from flows.online.outbox import Outbox
from flows.process.disk import as_disk_error
from flows.sources.redis_streams import BusPartition
from tests.flows.sources.test_redis_streams import STREAM, part, read, recheck
from tests.kits.payments import publish
from tests.soak import disk_full, log_damage, redis_older

FIELD = "account_id:00"


@pytest.fixture
def watch(clean_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> StoreWatch:
    monkeypatch.setattr("flows.online.loss_detector.CHECK_SECONDS", 0.0)
    return StoreWatch(clean_redis, "p", "payments")


def written(watch: StoreWatch, client: redis.Redis, known: int = 0) -> int:
    """A part starts, sends something, and it is noted; returns its number."""
    standing = watch.begin(FIELD, known)
    standing.count()
    assert write_marks(Outbox(client), {FIELD: standing.mark(watch.hash)}, client)
    return standing.number


def test_store_that_has_what_was_written_is_whole(watch: StoreWatch, clean_redis: redis.Redis) -> None:
    number = written(watch, clean_redis)
    again = watch.begin(FIELD, number)
    assert (again.whole, again.gone) == (True, False)
    assert watch.trouble(again) == ""


def test_older_store_is_noticed_at_the_start(watch: StoreWatch, clean_redis: redis.Redis) -> None:
    number = written(watch, clean_redis)
    before = clean_redis.dump(watch.hash)
    number = written(watch, clean_redis, number)
    clean_redis.restore(watch.hash, 0, before, replace=True)  # type: ignore[arg-type]
    again = watch.begin(FIELD, number)
    assert (again.whole, again.gone) == (False, True)


def test_part_that_has_not_written_everything_again_begins_anew(
    watch: StoreWatch, clean_redis: redis.Redis
) -> None:
    number = written(watch, clean_redis)
    clean_redis.flushall()
    assert not watch.begin(FIELD, number).whole
    assert not watch.begin(FIELD, number).whole  # killed before its first epoch was durable
    number = written(watch, clean_redis, number)
    assert watch.begin(FIELD, number).whole


def test_emptied_store_is_noticed_while_the_flow_runs_and_cannot_be_marked(
    watch: StoreWatch, clean_redis: redis.Redis
) -> None:
    standing = watch.begin(FIELD, 0)
    standing.count()
    clean_redis.flushall()
    assert write_marks(Outbox(clean_redis), {FIELD: standing.mark(watch.hash)}, clean_redis)
    assert clean_redis.hgetall(watch.hash) == {}
    assert "emptied" in watch.trouble(standing)
    anew = watch.begin_anew(standing, "it was emptied")
    assert (anew.whole, anew.gone) == (False, True)
    assert watch.trouble(anew) == ""


def test_mark_made_for_another_run_of_the_server_is_dropped(
    watch: StoreWatch, clean_redis: redis.Redis
) -> None:
    standing = watch.begin(FIELD, 0)
    standing.count()
    standing.lineage = f"0123.{standing.lineage.partition('.')[2]}"
    clean_redis.hset(watch.hash, FIELD, f"{standing.lineage} -1")
    assert write_marks(Outbox(clean_redis), {FIELD: standing.mark(watch.hash)}, clean_redis)
    assert clean_redis.hget(watch.hash, FIELD) == f"{standing.lineage} -1".encode()
    assert "restarted" in watch.trouble(standing)


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
