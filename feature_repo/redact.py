"""Remove passwords from error messages, log lines and printed addresses.

Every `MillstreamError` and every log line of a flow and of the scorer passes through here, so that callers need not
redact.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any, Final

HIDDEN: Final = "***"

# Up to the last @ before a space: a password that was not percent-encoded may hold one itself.
_IN_ADDRESS: Final = re.compile(r"(\b[a-z][a-z0-9+.-]*://)([^\s:@/]*):\S*@", re.IGNORECASE)
_BY_NAME: Final = re.compile(r"((?:\b|_)(?:password|passwd|secret)=)[^&,;\s]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return the text without the passwords of its addresses and options.

    >>> redact("redis://scorer:x9!@db.local:6380/0 does not answer")
    'redis://scorer:***@db.local:6380/0 does not answer'
    >>> redact("db.local:6380,username=flow,password=x9!,ssl=true")
    'db.local:6380,username=flow,password=***,ssl=true'
    """
    if "@" in text:
        text = _IN_ADDRESS.sub(rf"\1\2:{HIDDEN}@", text)
    return _BY_NAME.sub(rf"\1{HIDDEN}", text)


def redact_event(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Redact the text values of a log event: a structlog processor, for the place after exceptions became text."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = redact(value)
    return event
