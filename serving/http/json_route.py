"""Routes declared and documented the FastAPI way, whose JSON body is checked by pydantic straight from its bytes.

FastAPI's own handler parses the body with `json`, then solves a tree of dependencies; we have one body and no
dependencies. Bad input is answered in FastAPI's standard shape. A route's function takes (request, body), or (request).
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import orjson
from fastapi.dependencies.utils import get_typed_signature
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from serving import metrics
from serving.admission.authorize import KEY, Refused

ARRIVED: Final = "millstream.arrived"
"""Key of the request's scope: `time.perf_counter` when its headers had come."""
MAX_ERRORS: Final = 100
RETRY_AFTER: Final = "1"
TOO_BUSY: Final = {"detail": "too many payments at once; ask again in a second, or ask another scorer"}
JSON_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response; NaN and infinity become null."""
    return Response(orjson.dumps(content, option=JSON_OPTIONS), status, headers, "application/json")


def refusal(refused: Refused) -> Response:
    """What is told to whoever is not answered, counted."""
    metrics.REFUSED.labels(refused.reason).inc()
    return answer({"detail": refused.said}, refused.status, refused.headers)


def too_busy() -> Response:
    """503: as many requests are inside as can be answered in time."""
    refused = answer(TOO_BUSY, 503)
    refused.headers["retry-after"] = RETRY_AFTER
    return refused


class JsonRoute(APIRoute):
    """Counts and times its requests, too; those with a body are turned away when the limiter is full, before anybody looks into it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[..., Awaitable[Response]] = self.endpoint
        asked = [p.annotation for p in get_typed_signature(self.endpoint).parameters.values()][1:]
        validate = TypeAdapter(asked[0]).validate_json if asked else None
        seconds = metrics.REQUEST_SECONDS.labels(self.path)
        answered = metrics.REQUESTS.labels(self.path, "200")

        async def handle(request: Request) -> Response:
            arrived = time.perf_counter()
            request.scope[ARRIVED] = arrived
            status = 500
            try:
                if validate is None:
                    response = await endpoint(request)
                else:
                    parts = request.app.state.parts
                    keys, limiter = parts.authorizer.keys, parts.limiter
                    content = await _body(request, parts.settings.max_bytes(self.path))
                    if parts.authorizer.keys is not keys:  # other ones, while the body came
                        request.scope[KEY] = parts.authorizer.admit(request.scope)
                    if limiter.is_full():  # it was open when the headers came (`serving.http.middleware`)
                        response = too_busy()
                    else:
                        body = _checked(validate, content)
                        limiter.acquire()
                        try:
                            response = await endpoint(request, body)
                        finally:
                            limiter.release()
                status = response.status_code
            except RequestValidationError:
                status = 422
                raise
            except Refused as refused:
                status = refused.status
                raise
            finally:
                seconds.observe(time.perf_counter() - arrived)
                (answered if status == 200 else metrics.REQUESTS.labels(self.path, str(status))).inc()
            return response

        return handle


async def _body(request: Request, most: int) -> bytes:
    """The whole body, if it has not more than so many bytes."""
    content = b""
    parts = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise Refused(413, "size", f"the body is larger than {most} bytes; send less at once")
        parts.append(chunk)
    return content.join(parts)


def _checked(validate: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return validate(body)
    except ValidationError as error:
        raise RequestValidationError(_errors(error, body)) from error


def _errors(error: ValidationError, body: bytes) -> list[dict[str, Any]]:
    """As FastAPI would say it: `loc` begins with "body", malformed JSON with the place where it ends to make sense."""
    found: list[dict[str, Any]] = [dict(e) for e in error.errors(include_url=False)]
    if found[0]["type"] != "json_invalid":
        return [{**e, "loc": ("body", *e["loc"])} for e in found[:MAX_ERRORS]]
    if not body.strip():
        return [{"type": "missing", "loc": ("body",), "msg": "Field required"}]
    place: tuple[str | int, ...] = ("body",)
    why = str(found[0].get("ctx", {}).get("error", "")) or found[0]["msg"]
    try:
        json.loads(body)
    except json.JSONDecodeError as other:
        place, why = ("body", other.pos), other.msg
    except (ValueError, RecursionError):
        pass
    return [{"type": "json_invalid", "loc": place, "msg": "JSON decode error", "ctx": {"error": why}}]


def refuse(error: RequestValidationError) -> Response:
    """422 that says which field and why, in FastAPI's shape but without `input`: what was sent may be somebody's account."""
    return answer({"detail": [_writable(e) for e in error.errors()]}, 422)


def _writable(error: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {k: error[k] for k in ("type", "loc", "msg") if k in error}
    if "ctx" in error:
        said["ctx"] = {k: v if isinstance(v, int | float | str) else str(v) for k, v in error["ctx"].items()}
    return said
