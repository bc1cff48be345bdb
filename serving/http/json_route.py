"""ASGI adapter of `decide` for the body of a request: a FastAPI route that validates its JSON body from the bytes.

FastAPI's own handler parses the body with `json` and then resolves dependencies; these routes have one body and no
dependencies.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import orjson
from fastapi.dependencies.utils import get_typed_signature
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from serving import metrics
from serving.admission.authorize import Refused
from serving.http.decide import ADMISSION, count_refusal, decide

JSON_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response; NaN and infinity become null."""
    return Response(orjson.dumps(content, option=JSON_OPTIONS), status, headers, "application/json")


def refusal(refused: Refused) -> Response:
    """Build the response of a refusal and count it."""
    count_refusal(refused)
    return answer({"detail": refused.detail}, refused.status, refused.headers)


class JsonRoute(APIRoute):
    """A route whose function takes (request), or (request, payload); it counts and times its requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route's requests."""
        endpoint: Callable[..., Awaitable[Response]] = self.endpoint
        has_body = len(get_typed_signature(self.endpoint).parameters) > 1
        seconds = metrics.REQUEST_SECONDS.labels(self.path)
        answered = metrics.REQUESTS.labels(self.path, "200")

        async def handle(request: Request) -> Response:
            admission, status = request.scope[ADMISSION], 500
            try:
                if has_body:
                    parts = request.app.state.parts
                    body = await _read_body(request, parts.settings.max_bytes(self.path))
                    decide(parts, request.scope, admission, body)
                    parts.limiter.acquire()
                    try:
                        response = await endpoint(request, admission.payload)
                    finally:
                        parts.limiter.release()
                else:
                    response = await endpoint(request)
                status = response.status_code
            except Refused as refused:
                status = refused.status
                response = refusal(refused)
            finally:
                seconds.observe(time.perf_counter() - admission.arrived)
                (answered if status == 200 else metrics.REQUESTS.labels(self.path, str(status))).inc()
            return response

        return handle


async def _read_body(request: Request, limit: int) -> bytes:
    """Return the whole body, or its beginning if it is longer than `limit` bytes."""
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        pieces.append(piece)
        if size > limit:
            break
    return b"".join(pieces)
