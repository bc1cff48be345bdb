"""Log lines of the flow processes: structured, on standard error, as text on a terminal and as JSON elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

from feature_repo.redact import redact_event


def configure(form: Literal["auto", "json", "text"] = "auto") -> None:
    """Set up structlog for this process."""
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
