"""Wait for a server that does not answer: retries by stamina, one log line when an outage begins and one when it ends.

    Outage("registry", todo="check SCHEMA_REGISTRY_URL").wait_out(ask, ConnectionError)

logs `registry.unreachable` at the first failure and `registry.back` once the server answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import stamina
import stamina.instrumentation
import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")
_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 2.0

stamina.instrumentation.set_on_retry_hooks(())  # by default it logs every attempt


@dataclass(frozen=True)
class Outage:
    """What to log about a server's outage: `<name>.unreachable` with `todo` and `about`, later `<name>.back`."""

    name: str
    todo: str
    about: dict[str, Any] = field(default_factory=dict)

    def wait_out(
        self,
        call: Callable[[], T],
        on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool],
        *,
        describe: Callable[[Exception], str] = str,
        seconds: float | None = None,
    ) -> T:
        """Return what `call` returns; after an error of `on` wait (0.1 s, doubled up to 2 s) and call it again.

        `on`: classes of errors, or a function that tells whether an error is an outage. `describe` makes the text of
        an error for the log. After `seconds` (None: never) the error is raised.
        """
        failures = 0

        def is_outage(error: Exception) -> bool:
            nonlocal failures
            if not (isinstance(error, on) if isinstance(on, type | tuple) else on(error)):
                return False
            failures += 1
            if failures == 1:
                event = f"{self.name}.unreachable"
                log.warning(event, error=describe(error), todo=self.todo, **self.about)
            return True

        waits = stamina.retry_context(
            is_outage,
            attempts=None,
            timeout=seconds,
            wait_initial=_FIRST_WAIT_S,
            wait_max=_LONGEST_WAIT_S,
            wait_jitter=0.0,
        )
        for attempt in waits:
            with attempt:
                answer = call()
        if failures:
            event = f"{self.name}.back"
            log.info(event, failures=failures, **self.about)
        return answer
