"""ASGI adapter of `decide` for the head of a request, in front of every route."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serving import metrics
from serving.admission.authorize import Refused, route_of
from serving.http.decide import ADMISSION, BUSY, decide
from serving.http.json_route import refusal

_BODY_NOT_READ: Final = frozenset({"key", "address", "port", "docs"})
"""Reasons for which the client is not known well enough to read its body."""


class AdmissionMiddleware:
    """Put the `Admission` of a request into its scope, or answer with the refusal."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http" and ADMISSION not in scope:  # `score_protocol` may have put it there
            parts = scope["app"].state.parts
            try:
                scope[ADMISSION] = decide(parts, scope)
            except Refused as refused:
                route = route_of(scope)
                if refused.reason not in _BODY_NOT_READ:
                    await _skip_body(receive, parts.settings.max_bytes(route))
                if refused.reason == BUSY:
                    metrics.REQUESTS.labels(route, "503").inc()
                await refusal(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _skip_body(receive: Receive, limit: int) -> None:
    """Read the body, or more than `limit` bytes of it: a client that is answered while it sends may miss the answer."""
    size, more = 0, True
    while more and size <= limit:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)  # a client that has disconnected sends no more
