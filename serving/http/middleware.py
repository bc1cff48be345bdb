"""The gate in front of every route, and what a refused client is told, as an ASGI middleware; before a full door nothing else is done."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from serving import metrics
from serving.admission.authorize import KEY, SCOPES_NEEDED, Refused, route_of
from serving.http.json_route import refusal, too_busy


class AdmissionMiddleware:
    """Lets a request in with its key in the scope, or answers it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            parts, route = scope["app"].state.parts, route_of(scope)
            try:
                scope[KEY] = key = parts.authorizer.admit(scope)
                if (
                    SCOPES_NEEDED.get(route) == "score"
                    and scope["method"] == "POST"
                    and parts.limiter.is_full()
                ):
                    await _read_off(receive, parts.settings.max_bytes(route))
                    metrics.REQUESTS.labels(route, "503").inc()
                    await too_busy()(scope, receive, send)
                    return
                parts.authorizer.take_tokens(key)
            except Refused as refused:
                if refused.reason in {"scope", "rate"}:  # of who is not known nothing is read
                    await _read_off(receive, parts.settings.max_bytes(route))
                await refusal(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _read_off(receive: Receive, most: int) -> None:
    """Wait for the body's end, or for more than it may have: a client that is answered while it sends may never see the answer."""
    size, more = 0, True
    while more and size <= most:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)  # a client that is gone has no more
