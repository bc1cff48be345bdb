"""Read bytes from a redis-py connection, where an object per reply would cost too much."""

from __future__ import annotations

from typing import Any

import redis


def receive(connection: Any, buffer: memoryview) -> int:
    """Read at least one byte into the buffer; returns how many.

    Raises redis-py's errors. Bytes that redis-py read ahead are not seen.
    """
    try:
        n: int = connection._sock.recv_into(buffer)  # the client connects, replies we read ourselves
    except TimeoutError as error:
        raise redis.TimeoutError(str(error)) from error
    except OSError as error:
        raise redis.ConnectionError(str(error)) from error
    if not n:
        raise redis.ConnectionError("the server closed the connection")
    return n
