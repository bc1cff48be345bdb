"""A producer process: sends prepared commands to the bus at a steady rate, independent of the flow (open loop).

`python -m bench.w1_producer URL FOLDER`: `commands` in the folder holds XADD commands one after the other, `ends.npy`
where each ends. Each line of standard input is a run: first command, last, commands a second, and when to begin
(`time.time()`). The answer to each line is the largest delay against its schedule, in seconds.
"""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import redis

TICK_S = 0.001


def main() -> None:
    """Until the end of the input."""
    url, folder = sys.argv[1], Path(sys.argv[2])
    ends = np.load(folder / "ends.npy")
    connection: Any = redis.Redis.from_url(url).connection_pool.get_connection()
    connection.send_command("PING")
    connection.read_response()
    sock = connection._sock
    with (
        (folder / "commands").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as commands,
    ):
        print("ready", flush=True)
        for line in sys.stdin:
            first, last, rate, begin = line.split()
            lag = run(sock, memoryview(commands), ends, int(first), int(last), float(rate), float(begin))
            print(lag, flush=True)


def run(
    sock: Any, commands: memoryview, ends: Any, first: int, last: int, rate: float, begin: float
) -> float:
    """Send commands `first` to `last` (excluded)."""
    answers = bytearray(1 << 16)
    sent, lag, answered = first, 0.0, 0
    time.sleep(max(begin - time.time(), 0))
    while sent < last:
        due = min(first + int((time.time() - begin) * rate), last)
        if due > sent:
            lag = max(lag, time.time() - begin - (sent - first) / rate)
            sock.setblocking(True)
            sock.sendall(commands[int(ends[sent - 1]) if sent else 0 : int(ends[due - 1])])
            sent = due
        answered += drain(sock, answers)
        time.sleep(TICK_S)
    while answered < last - first:
        answered += drain(sock, answers)
        time.sleep(TICK_S)
    return lag


def drain(sock: Any, answers: bytearray) -> int:
    """Answers that are there: two lines each."""
    sock.setblocking(False)
    lines = 0
    try:
        while n := sock.recv_into(answers):
            lines += answers.count(b"$", 0, n)
    except BlockingIOError:
        pass
    return lines


if __name__ == "__main__":
    main()
