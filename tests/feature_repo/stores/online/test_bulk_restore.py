"""A store that was emptied is filled by commands that make whole hashes: they leave what compare-and-set leaves, and nothing where a key is."""

from __future__ import annotations

import binascii
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as LostError

from feature_repo.stores.online.bulk_restore import crc64
from feature_repo.stores.online.script_calls import Calls
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.windows.spec import Aggregate, ViewSpec
from feature_repo.windows.state import KeyIndex, ViewState
from flows.online.outbox import Outbox
from tests.feature_repo.stores.online.test_script_calls import EXACT, HOUR, TILED, events, folded
from tests.sim.store import commands_of

OTHER_VERSION = ViewSpec(
    "exact", ("a",), 0, 16, HOUR, (Aggregate("n", "count", "x", HOUR), Aggregate("m", "max", "x", HOUR))
)
WIDE = ViewSpec("wide", ("a",), 0, 2048, HOUR, (Aggregate("s", "sum", "x", HOUR),))
assert (EXACT.name, EXACT.fingerprint) != (OTHER_VERSION.name, OTHER_VERSION.fingerprint)

Contents = dict[bytes, dict[bytes, bytes]]


def contents(client: redis.Redis) -> Contents:
    return {key: client.hgetall(key) for key in client.scan_iter()}  # type: ignore[misc]


def projection_of(client: redis.Redis, states: list[ViewState]) -> EntityProjection:
    return EntityProjection(client, "project", [state.spec for state in states])


def filled(
    outbox: Outbox, writer: EntityProjection, index: KeyIndex, states: list[ViewState], part: int
) -> None:
    """Send all states, `part` keys at a time."""
    for start in range(0, len(index), part):
        slots = np.arange(start, min(start + part, len(index)))
        outbox.post_new(writer.new(index, states, slots), writer.calls(index, states, slots), writer.send)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.integers(1, 40))
def test_made_hashes_are_those_of_compare_and_set(
    clean_redis: redis.Redis, events: list[tuple[str, int]], part: int
) -> None:
    index, states = folded(events)
    writer = projection_of(clean_redis, states)
    clean_redis.flushall()
    writer.write(index, states, np.arange(len(index)))
    expected = contents(clean_redis)
    clean_redis.flushall()
    outbox = Outbox(clean_redis)
    filled(outbox, writer, index, states, part)
    outbox.settle()
    assert contents(clean_redis) == expected
    seconds = max(EXACT.lifetime_us, TILED.lifetime_us) // 1_000_000 + 1
    assert all(seconds - 60 < clean_redis.ttl(key) <= seconds for key in expected)  # type: ignore[operator]


def test_states_of_any_size_and_two_versions_of_a_view_go_in(clean_redis: redis.Redis) -> None:
    """Lengths take 1, 2 or 5 bytes; versions share the field of the view's time."""
    many = [("busy", n) for n in range(1500)] + [("quiet", 5), ("some", 6), *(("some", n) for n in range(40))]
    index, states = folded(many, [EXACT, OTHER_VERSION, WIDE])
    writer = projection_of(clean_redis, states)
    writer.write(index, states, np.arange(len(index)))
    expected = contents(clean_redis)
    assert max(len(value) for fields in expected.values() for value in fields.values()) > 16_384
    clean_redis.flushall()
    filled(outbox := Outbox(clean_redis), writer, index, states, 2)
    outbox.settle()
    assert contents(clean_redis) == expected
    assert all(len(fields) == 5 for fields in expected.values())


def test_key_that_is_there_is_left_to_compare_and_set(clean_redis: redis.Redis) -> None:
    """A plain row of its entity, the same state, and an older one: nothing is lost, and every state is there in the end."""
    before = [("plain", 1), ("newer", 1), ("older", 1), *((f"k{n}", n) for n in range(200))]
    index, states = folded(before)
    newer_index, newer = folded([*before, ("newer", 2), ("older", 2)])
    writer = projection_of(clean_redis, states)
    clean_redis.hset(writer.key(index.name(0)), b"row", b"kept")
    writer.write(newer_index, newer, np.array([1]))  # as new as what is sent
    writer.write(index, states, np.array([2]))  # behind it
    outbox = Outbox(clean_redis)
    filled(outbox, writer, newer_index, newer, 64)
    outbox.settle()
    found = contents(clean_redis)
    assert len(found) == len(index)
    assert found[writer.key(index.name(0))].pop(b"row") == b"kept"
    clean_redis.flushall()
    writer.write(newer_index, newer, np.arange(len(newer_index)))
    assert found == contents(clean_redis)


def test_server_that_refuses_the_command_gets_compare_and_set(clean_redis: redis.Redis) -> None:
    clean_redis.execute_command("ACL", "SETUSER", "poor", "reset", "on", ">p", "~*", "+@all", "-restore")
    index, states = folded([(f"k{n}", n) for n in range(100)])
    options = clean_redis.connection_pool.connection_kwargs
    poor = redis.Redis(host=options["host"], port=options["port"], username="poor", password="p")
    writer = projection_of(poor, states)
    filled(outbox := Outbox(poor), writer, index, states, 30)
    outbox.settle()
    assert len(contents(clean_redis)) == 100


class Pieces:
    """A connection whose server answers `answers`, in pieces of any size, and then ends the connection."""

    def __init__(self, answers: bytes, draw: random.Random) -> None:
        self._sock = self
        self._left, self._draw = answers, draw

    def recv_into(self, buffer: memoryview) -> int:
        size = self._draw.randint(1, max(1, len(buffer)))
        piece, self._left = self._left[:size], self._left[size:]
        buffer[: len(piece)] = piece
        return len(piece)

    def get_connection(self) -> Any:
        return self

    def send_packed_command(self, pieces: Any) -> None:
        for _ in pieces:
            pass

    def disconnect(self) -> None:
        self._left = b""

    def read_response(self) -> Any:
        line, _, self._left = self._left.partition(b"\r\n")
        if not line:
            raise LostError("gone")
        return line


class Client:
    def __init__(self, pool: Pieces) -> None:
        self.connection_pool = pool


OK, BUSY = b"+OK\r\n", b"-BUSYKEY Target key name already exists.\r\n"


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=6), st.randoms())
def test_pieces_that_were_refused_are_sent_again_and_no_other(
    pieces: list[list[bool]], draw: random.Random
) -> None:
    """However the socket cuts the answers; and the answer to what is sent behind them is read as its own."""
    answers = b"".join(OK if made else BUSY for piece in pieces for made in piece) + b":7\r\n"
    pool = Pieces(answers, draw)
    outbox, again = Outbox(Client(pool)), list[int]()
    for number, piece in enumerate(pieces):
        outbox.post_new(Calls(np.zeros(1, np.uint8), len(piece), 1), _named(number), _noting(again))
    outbox.settle()
    assert again == [number for number, piece in enumerate(pieces) if not all(piece)]
    assert pool._left == b":7\r\n"


def test_connection_that_breaks_leaves_all_unanswered_to_compare_and_set() -> None:
    outbox, again = Outbox(Client(Pieces(OK * 3 + b"+O", random.Random(1)))), list[int]()
    for number in range(3):
        outbox.post_new(Calls(np.zeros(1, np.uint8), 2, 1), _named(number), _noting(again))
    outbox.settle()
    assert again == [1, 2]


def _named(number: int) -> Calls:
    return Calls(np.zeros(1, np.uint8), 1, number)


def _noting(again: list[int]) -> Callable[[Calls], object]:
    return lambda calls: again.append(calls.rows)


def test_listpack_reads_the_same_from_either_end(clean_redis: redis.Redis) -> None:
    """The server takes it over as it is; a wrong length behind a text would be met only when a field is removed, some day."""
    index, states = folded([("busy", n) for n in range(900)] + [("quiet", 5)], [EXACT, TILED, WIDE])
    commands = commands_of(projection_of(clean_redis, states).new(index, states, np.arange(2)).data.tobytes())
    for command in commands:
        payload = command[3]
        pack = listpack_of(payload)
        assert (payload[0], int.from_bytes(pack[:4], "little")) == (16, len(pack))
        assert forwards(pack) == backwards(pack)[::-1]
        assert len(forwards(pack)) == int.from_bytes(pack[4:6], "little") == 12
    for command in commands:
        clean_redis.execute_command(*command)
        key = command[1]
        before = clean_redis.hgetall(key)
        for name in list(before)[1:]:  # type: ignore[arg-type]
            clean_redis.hdel(key, name)
            clean_redis.hset(key, name, before[name])  # type: ignore[index]
        assert clean_redis.hgetall(key) == before


def listpack_of(payload: bytes) -> bytes:
    """The listpack of a payload."""
    first = payload[1]
    size, at = (
        (first, 2)
        if first < 64
        else ((first & 63) << 8 | payload[2], 3)
        if first < 128
        else (int.from_bytes(payload[2:6], "big"), 6)
    )
    return payload[at : at + size]


def _entry(pack: bytes, at: int) -> tuple[bytes, int]:
    """The text at a place, and how many bytes it takes with the length before it."""
    first = pack[at]
    if first >> 6 == 2:
        size, head = first & 63, 1
    elif first >> 4 == 14:
        size, head = (first & 15) << 8 | pack[at + 1], 2
    else:
        assert first == 240
        size, head = int.from_bytes(pack[at + 1 : at + 5], "little"), 5
    return pack[at + head : at + head + size], head + size


def forwards(pack: bytes) -> list[bytes]:
    found, at = [], 6
    while pack[at] != 255:
        text, size = _entry(pack, at)
        found.append(text)
        at += size
        at += 1 if size < 128 else 2 if size < 16383 else 3
    assert at == len(pack) - 1
    return found


def backwards(pack: bytes) -> list[bytes]:
    found, at = [], len(pack) - 1
    while at > 6:
        size, shift, back = 0, 0, at
        while True:
            back -= 1
            size |= (pack[back] & 127) << shift
            shift += 7
            if not pack[back] & 128:
                break
        text, whole = _entry(pack, back - size)
        assert whole == size
        found.append(text)
        at = back - size
    return found


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 1000])
def test_sum_is_that_of_the_servers_own_files(clean_redis: redis.Redis, size: int) -> None:
    clean_redis.set("k", random.Random(size).randbytes(size) + b"x")
    dump: bytes = clean_redis.dump("k")  # type: ignore[assignment]
    assert crc64(dump[:-8]) == int.from_bytes(dump[-8:], "little")
    assert crc64(b"") == 0
    assert binascii.hexlify(crc64(b"123456789").to_bytes(8, "big")) == b"e9c6d914c4b8d9ca"
