"""The gate in front of every route, and what a refused client is told, as an ASGI middleware."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.fast_route import refusal
from serving.gate import Refused

KEY: Final = "millstream.key"
"""Key of a request's scope: the `ApiKey` it came with."""


class Guard:
    """Lets a request in with its key in the scope, or answers it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            gate = scope["app"].state.parts.gate
            try:
                scope[KEY] = key = gate.admit(scope)
                gate.take(key)
            except Refused as refused:
                await refusal(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)
