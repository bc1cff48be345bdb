"""Wait until something is true."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool],
    timeout: float = 180.0,
    what: str = "the condition",
    *,
    alive: Callable[[], bool] | None = None,
    every: float = 0.05,
) -> None:
    """Return as soon as `condition()` is true; look again `every` seconds.

    Raises AssertionError with `what` after `timeout` seconds, or at once when `alive` is given and is false.
    """
    give_up = time.monotonic() + timeout
    while not condition():
        assert alive is None or alive(), f"the process ended before {what} was reached"
        assert time.monotonic() < give_up, f"{what} was not reached within {timeout:g} s"
        time.sleep(every)
