"""Bytes of a redis-py connection, read by ourselves: where an object per reply would cost more than what the reply is about."""

from __future__ import annotations

from typing import Any

import redis


def receive(connection: Any, buffer: memoryview) -> int:
    """Bytes put into the buffer, at least one. Raises redis-py's errors. What redis-py has read ahead is not seen here."""
    try:
        n: int = connection._sock.recv_into(buffer)  # the client connects, replies we read ourselves
    except TimeoutError as error:
        raise redis.TimeoutError(str(error)) from error
    except OSError as error:
        raise redis.ConnectionError(str(error)) from error
    if not n:
        raise redis.ConnectionError("the server closed the connection")
    return n
