"""Atomic writes leave the old file or the new one; a lock belongs to one process at a time."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from feature_repo.errors import RecoveryError
from feature_repo.files import (
    file_lock,
    is_locked,
    open_locked,
    replaced,
    target_of,
    try_lock,
    write_atomically,
)


def test_a_write_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    write_atomically(path, b"new", durable=False)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_has_its_permissions_before_it_has_content(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        with replaced(tmp_path / "a", mode=mode) as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) == mode
            temporary.write_text("secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_an_error_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail() -> None:
        with replaced(path) as temporary:
            temporary.write_text("half")
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011  the very one
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_of_a_killed_process_is_recognised(tmp_path: Path) -> None:
    with replaced(tmp_path / "bus-0000000001.parquet") as temporary:
        temporary.write_text("x")
        assert target_of(temporary.name) == "bus-0000000001.parquet"
    assert target_of(".bus-0000000001.parquet.tmp") == "bus-0000000001.parquet"  # of an earlier version
    assert target_of("bus-0000000001.parquet") is None


def test_a_lock_is_held_once_and_freed_with_its_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a.lock"
    assert not is_locked(path)
    assert not path.exists()
    descriptor = try_lock(path)
    assert descriptor is not None
    assert try_lock(path) is None
    assert is_locked(path)
    with pytest.raises(RecoveryError), file_lock(path, busy=RecoveryError("taken")):
        pass
    os.close(descriptor)
    with file_lock(path, busy=RecoveryError("taken")):
        assert is_locked(path)
    assert not is_locked(path)


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    descriptor = try_lock(tmp_path / "a.lock")
    assert descriptor is not None
    threading.Timer(0.2, os.close, [descriptor]).start()
    began = time.monotonic()
    taken = try_lock(tmp_path / "a.lock", wait_seconds=10.0)
    assert taken is not None
    assert 0.1 < time.monotonic() - began < 5.0
    os.close(taken)


def test_a_file_that_was_replaced_while_waiting_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text("1\n2\n")

    def append() -> None:
        with open_locked(path, "ab", buffering=0) as file:
            file.write(b"3\n")

    with open_locked(path, "rb"), replaced(path) as temporary:
        writer = threading.Thread(target=append)
        writer.start()
        time.sleep(0.2)
        temporary.write_text("2\n")
    writer.join(5.0)
    assert path.read_text() == "2\n3\n"
