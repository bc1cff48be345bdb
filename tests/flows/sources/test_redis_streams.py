"""The bus: blocks in order, exact resume, nothing lost silently, patience with a server that is away."""

from __future__ import annotations

import time
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from feature_repo.errors import FlowError
from feature_repo.privacy import Pseudonyms
from feature_repo.streams.labels import LABELS
from feature_repo.streams.payments import PAYMENTS
from flows.blocks import RawBlock
from flows.local.redis_server import EmbeddedServer
from flows.settings import FlowSettings
from flows.sources import redis_read_size
from flows.sources.redis_retention import trims_bus
from flows.sources.redis_streams import BusPartition, RedisStreamSource
from tests.kits.payments import publish

PART = "bus:payments:0"
STREAM = "millstream:payments:0"


def part(state: tuple[str, int] | None = None, **options: object) -> BusPartition:
    return BusPartition(PART, state, FlowSettings(**options))  # type: ignore[arg-type]


def read(source: BusPartition) -> list[bytes]:
    return [payload for block in source.next_batch() for payload in block.payloads]


def recheck(source: BusPartition) -> None:
    """Let the source compare its counters with the server's at the next read."""
    source._counters.due_at = datetime.now(UTC)


def test_block_has_payloads_offsets_and_accept_times(home: Path, clean_redis: redis.Redis) -> None:
    clean_redis.xadd(STREAM, {"v": "a"}, id="1700000000000-0")
    clean_redis.xadd(STREAM, {"v": "b"}, id="1700000000000-1")
    clean_redis.xadd(STREAM, {"v": "c"}, id="1700000000007-0")
    (block,) = part().next_batch()
    assert isinstance(block, RawBlock)
    assert block.payloads == [b"a", b"b", b"c"]
    assert block.began == -1
    assert block.offsets.tolist() == [1700000000000 << 20, (1700000000000 << 20) | 1, 1700000000007 << 20]
    assert block.accepted_us.tolist() == [1700000000000000, 1700000000000000, 1700000000007000]  # type: ignore[union-attr]


def test_block_holds_at_most_the_block_size(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"%d" % i for i in range(10)])
    source = part(block_events=4)
    assert [len(read(source)) for _ in range(3)] == [4, 4, 2]


def test_epoch_holds_at_most_its_events(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"%d" % i for i in range(10)])
    source = part(block_events=4, epoch_events=6)
    assert [len(read(source)) for _ in range(4)] == [4, 2, 0, 0]
    source.snapshot()
    assert [len(read(source)) for _ in range(2)] == [4, 0]


def test_resume_goes_on_after_the_last_entry_of_the_snapshot(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"a", b"b", b"c"], first_ms=1000)
    source = part(block_events=2)
    assert read(source) == [b"a", b"b"]
    state = source.snapshot()
    assert state == ("1001-0", 2)
    assert read(source) == [b"c"]
    (again,) = part(state).next_batch()
    assert (again.payloads, again.began) == ([b"c"], 1001 << 20)


def test_quiet_stream_gives_one_heartbeat_per_epoch(home: Path, clean_redis: redis.Redis) -> None:
    source = part()
    assert [len(source.next_batch()) for _ in range(3)] == [1, 0, 0]
    source.snapshot()
    assert [len(source.next_batch()) for _ in range(2)] == [1, 0]


def test_entry_without_the_field_v_is_passed_on_for_the_dead_letters(
    home: Path, clean_redis: redis.Redis
) -> None:
    clean_redis.xadd(STREAM, {"x": "1", "y": "2"})
    clean_redis.xadd(STREAM, {"x": "1", "v": "good"})
    assert read(part()) == [b"x 1 y 2", b"good"]


def test_stream_trimmed_beyond_the_resume_position_stops_the_flow(
    home: Path, clean_redis: redis.Redis
) -> None:
    publish(clean_redis, [b"%d" % i for i in range(10)])
    source = part(block_events=4)
    read(source)
    state = source.snapshot()
    clean_redis.xtrim(STREAM, maxlen=5, approximate=False)
    with pytest.raises(FlowError, match="1 entries vanished before the flow read them"):
        part(state).next_batch()


def test_trim_that_overtakes_a_running_flow_is_noticed(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"%d" % i for i in range(10)])
    source = part(block_events=4)
    read(source)
    clean_redis.xtrim(STREAM, maxlen=4, approximate=False)
    assert read(source) == [b"6", b"7", b"8", b"9"]
    recheck(source)
    with pytest.raises(FlowError, match="2 entries vanished"):
        source.next_batch()


def test_trim_of_entries_already_read_is_no_loss(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"%d" % i for i in range(10)])
    source = part(block_events=6)
    read(source)
    clean_redis.xtrim(STREAM, maxlen=4, approximate=False)
    recheck(source)
    assert read(source) == [b"6", b"7", b"8", b"9"]
    assert part(source.snapshot()).next_batch()


def test_deleted_unread_entry_stops_the_flow(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"a", b"b", b"c"], first_ms=1000)
    source = part(block_events=1)
    read(source)
    clean_redis.xdel(STREAM, "1001-0")
    recheck(source)
    source._size._settings = FlowSettings()  # reads to the end of the stream, where the counters are exact
    with pytest.raises(FlowError, match="1 entries vanished"):
        source.next_batch()


def test_emptied_server_stops_the_flow(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"a", b"b"])
    source = part()
    read(source)
    clean_redis.flushall()
    with pytest.raises(FlowError, match="emptied or replaced"):
        part(source.snapshot()).next_batch()


def test_operator_can_accept_a_gap(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"%d" % i for i in range(10)])
    source = part(block_events=4)
    read(source)
    clean_redis.xtrim(STREAM, maxlen=3, approximate=False)
    on = part(source.snapshot(), bus_gap="accept")
    assert read(on) == [b"7", b"8", b"9"]
    recheck(on)
    assert read(on) == []
    clean_redis.flushall()
    publish(clean_redis, [b"new"])
    recheck(on)
    assert read(on) == [b"new"]
    recheck(on)
    assert read(part(on.snapshot())) == []


def test_flow_that_first_starts_late_begins_at_the_first_entry_there_is(
    home: Path, clean_redis: redis.Redis
) -> None:
    publish(clean_redis, [b"%d" % i for i in range(10)])
    clean_redis.xtrim(STREAM, maxlen=2, approximate=False)
    source = part()
    assert read(source) == [b"8", b"9"]
    assert part(source.snapshot()).next_batch()[0].payloads == []


def test_source_waits_for_a_server_that_is_away_and_goes_on(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    with EmbeddedServer(folder) as server:
        source = part(redis_url=server.url)
        publish(redis.Redis.from_url(server.url), [b"a"])
        assert read(source) == [b"a"]
        port = server.url.rpartition(":")[2].partition("/")[0]
    began = time.monotonic()
    assert [read(source) for _ in range(3)] == [[], [], []]
    assert time.monotonic() - began < 1.0
    awake = source.next_awake()
    assert awake is not None
    assert 0.1 < (awake - datetime.now(UTC)).total_seconds() < 5.1
    again = EmbeddedServer(folder)
    again._take_lock()
    assert again._launch(int(port))
    try:
        publish(redis.Redis.from_url(again.url), [b"b"])
        assert read(source) == [b"b"]
    finally:
        again.stop()


def test_partitions_are_those_of_the_contract(home: Path) -> None:
    assert RedisStreamSource(PAYMENTS.bus_parts(4), FlowSettings()).list_parts() == [
        f"bus:payments:{p}" for p in range(4)
    ]
    assert LABELS.bus_parts(4) == ["bus:labels:0"]
    assert zlib.crc32(b"a1") % 4 in range(4)


def trimming(state: tuple[str, int] | None = None, **options: object) -> BusPartition:
    return BusPartition(PART, state, FlowSettings(**options), trim=True)  # type: ignore[arg-type]


def test_entries_leave_the_bus_two_epochs_after_their_own_and_no_sooner(
    home: Path, clean_redis: redis.Redis
) -> None:
    publish(clean_redis, [b"%d" % i for i in range(10)], first_ms=1000)
    source = trimming(block_events=4)
    left = []
    for _ in range(5):
        read(source)
        recheck(source)
        source.snapshot()
        left.append(clean_redis.xlen(STREAM))
    assert left == [10, 10, 10, 6, 2]
    about = clean_redis.xinfo_stream(STREAM)
    assert about["entries-added"] == 10  # type: ignore[index]


def test_entries_stay_on_the_bus_for_a_minute_whatever_happens(home: Path, clean_redis: redis.Redis) -> None:
    clean_redis.xadd(STREAM, {"v": "old"}, id="1000-0")
    publish(clean_redis, [b"a", b"b"])
    source = trimming()
    for _ in range(6):
        read(source)
        recheck(source)
        source.snapshot()
    assert [fields[b"v"] for _, fields in clean_redis.xrange(STREAM)] == [b"a", b"b"]  # type: ignore[union-attr]


def test_own_trimming_is_no_gap_for_this_run_or_the_next(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"%d" % i for i in range(6)], first_ms=1000)
    source = trimming()
    states = []
    for _ in range(6):
        read(source)
        recheck(source)
        states.append(source.snapshot())
    assert clean_redis.xlen(STREAM) == 0
    publish(clean_redis, [b"next"])
    recheck(source)
    assert read(source) == [b"next"]
    assert read(trimming(states[-1])) == [b"next"]
    publish(clean_redis, [b"more"] * 5)
    clean_redis.xtrim(STREAM, maxlen=2, approximate=False)
    with pytest.raises(
        FlowError, match="3 entries vanished"
    ):  # what others remove before it was read still is one
        trimming(source.snapshot()).next_batch()


def test_nothing_is_removed_unless_it_is_asked_for(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"a"], first_ms=1000)
    source = part()
    for _ in range(6):
        read(source)
        recheck(source)
        source.snapshot()
    assert clean_redis.xlen(STREAM) == 1
    keyed = Pseudonyms("k1", bytes(32))
    assert trims_bus(keyed, FlowSettings())
    assert not trims_bus(Pseudonyms.off(), FlowSettings())
    assert not trims_bus(keyed, FlowSettings(bus_retention="all"))
    assert trims_bus(Pseudonyms.off(), FlowSettings(bus_retention="unread"))


def test_large_entries_come_in_small_blocks_and_fill_an_epoch_by_their_bytes(
    home: Path, clean_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_read_size, "BLOCK_BYTES", 320_000)
    publish(clean_redis, [bytes(10_000)] * 400)
    source = BusPartition(PART, None, FlowSettings(), epoch_bytes=2_500_000)
    sizes = [len(read(source)) for _ in range(8)]
    assert sizes[0] <= 128
    assert sizes[1:5] == [32] * 4
    assert 250 <= sum(sizes) < 290
    source.snapshot()
    assert sum(len(read(source)) for _ in range(8)) == 400 - sum(sizes)


def test_reads_grow_with_a_backlog_of_small_entries(home: Path, clean_redis: redis.Redis) -> None:
    publish(clean_redis, [b"%d" % i for i in range(4_000)])
    source = part()
    sizes = [len(read(source)) for _ in range(6)]
    assert sum(sizes) == 4_000
    assert sizes[4] > 1_000
