"""Log lines of the scorer: structured, on standard error, text on a terminal and JSON elsewhere.

No line of level info or above holds fields or features of a payment; those are in the score log.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

from feature_repo.redact import redact_event


def configure(form: Literal["auto", "json", "text"], *, access_log: bool) -> None:
    """Configure structlog, once per process, and silence Uvicorn's line per request unless `access_log` is set."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact_event,
            structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if not access_log:
        access = logging.getLogger("uvicorn.access")  # Uvicorn looks for its handlers when a client connects
        access.handlers.clear()
        access.propagate = False
