"""`POST /score` straight from uvicorn's parser to the scorer, and its answer in one write.

Of a request that took 0.5 ms, a third was spent between socket and scorer: a dozen ASGI layers in, as many out, and two writes (headers,
body), each a system call and a wake-up of the client. Here a payment that is as it should be takes none of them. Whatever is not (invalid,
from the future, too large, not let in, an access log wanted ...) goes the ordinary way, untouched, and so do all other routes: the application says
what is answered, and `uvicorn serving.app:app` answers the same.
"""

from __future__ import annotations

import time
from typing import Any, Final

import orjson
import structlog
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from feature_repo.stores.clock import to_us
from serving import metrics
from serving.admission.api_keys import ApiKey, Keys
from serving.admission.authorize import Refused
from serving.api.requests import Payment
from serving.bootstrap import Parts
from serving.http.json_route import JSON_OPTIONS, RETRY_AFTER, TOO_BUSY
from serving.http.upgrade import Http1Protocol

log = structlog.get_logger(__name__)

PATH: Final = "/score"
MAX_BYTES: Final = 16_384
"""A payment of the longest names has 2 kB; a larger body is looked at by the application."""
_VALIDATE: Final = TypeAdapter(Payment).validate_json
_SECONDS: Final = metrics.REQUEST_SECONDS.labels(PATH)
_ANSWERED: Final = metrics.REQUESTS.labels(PATH, "200")
_REFUSED: Final = metrics.REQUESTS.labels(PATH, "503")
_OK: Final = b"HTTP/1.1 200 OK\r\n"
_SHED: Final = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: %b\r\n" % RETRY_AFTER.encode()
_TOO_BUSY: Final = orjson.dumps(TOO_BUSY)

Admitted = tuple[ApiKey, Keys | None, float]
"""The key of a request, the keys it was found among, and when its head came (`time.perf_counter`)."""


def protocol(app: FastAPI) -> type[HttpToolsProtocol]:
    """Uvicorn's HTTP protocol with a way of its own for this application's `POST /score`."""

    class ScoreProtocol(Http1Protocol):
        _awaited: Admitted | None = None
        """Whose body is not all here; it is that of `cycle`."""

        def _start_asgi_task(self, cycle: RequestResponseCycle, asgi: Any) -> None:
            scope = cycle.scope
            if (
                scope["path"] != PATH
                or scope["method"] != "POST"
                or asgi is not self.app
                or cycle.access_log
                or cycle.waiting_for_100_continue
                or cycle.flow.write_paused  # a client that does not read waits there
            ):
                super()._start_asgi_task(cycle, asgi)
                return
            arrived, authorizer = time.perf_counter(), app.state.parts.authorizer
            try:
                admitted = authorizer.admit(scope), authorizer.keys, arrived
            except Refused:
                super()._start_asgi_task(cycle, asgi)
                return
            if cycle.more_body:
                self._awaited = admitted
            else:
                self._score(cycle, admitted)

        def on_body(self, body: bytes) -> None:
            super().on_body(body)
            if self._awaited is not None and len(self.cycle.body) > MAX_BYTES:
                self._awaited = None
                super()._start_asgi_task(self.cycle, self.app)

        def on_message_complete(self) -> None:
            super().on_message_complete()
            if self._awaited is not None:
                admitted, self._awaited = self._awaited, None
                self._score(self.cycle, admitted)

        def _score(self, cycle: RequestResponseCycle, admitted: Admitted) -> None:
            """Nothing is made of it if the door is full; else it counts as inside before the next one is looked at.

            Either way the answer comes in a later turn of the loop: many requests in one piece are answered in turn with those of others.
            """
            parts: Parts = app.state.parts
            key, keys, arrived = admitted
            if parts.authorizer.keys is not keys:  # while the body came
                super()._start_asgi_task(cycle, self.app)
            elif parts.limiter.is_full():
                self.loop.call_soon(_turn_away, cycle)
            else:
                parts.limiter.acquire()
                task = self.loop.create_task(_serve(cycle, self.app, parts, key, arrived))
                task.add_done_callback(self.tasks.discard)
                self.tasks.add(task)

    return ScoreProtocol


def _turn_away(cycle: RequestResponseCycle) -> None:
    _write(cycle, _SHED, _TOO_BUSY)
    _REFUSED.inc()


async def _serve(cycle: RequestResponseCycle, asgi: Any, parts: Parts, key: ApiKey, arrived: float) -> None:
    now_us, content = parts.clock(), b""
    payment, failed = None, False
    try:
        payment = _checked(cycle.body, now_us, parts, key)
        if payment is not None:
            until = arrived + parts.settings.store_seconds
            made = await parts.scorer.score(payment, now_us, parts.store, until)
            content = orjson.dumps(made, option=JSON_OPTIONS)
    except Exception:  # whatever it is, the client is told, as by uvicorn
        log.exception("score.failed", event_id=payment and payment.event_id)
        failed = True
    finally:
        parts.limiter.release()
    if failed:
        await cycle.send_500_response()
        return
    if payment is None:
        await cycle.run_asgi(asgi)
        return
    if cycle.flow.write_paused:
        await cycle.flow.drain()
    _write(cycle, _OK, content)
    _SECONDS.observe(time.perf_counter() - arrived)
    _ANSWERED.inc()


def _checked(body: bytearray, now_us: int, parts: Parts, key: ApiKey) -> Payment | None:
    """The payment, None if the application has something to say about it. What is answered here is counted against the key."""
    settings = parts.settings
    if len(body) > settings.max_body_bytes:
        return None
    try:
        payment = _VALIDATE(body)
        when = payment.event_timestamp
        if when is not None and to_us(when) > now_us + settings.max_future_skew_seconds * 1e6:
            return None
        parts.authorizer.check_tenant(key, (payment,))
        parts.authorizer.take_tokens(key)
    except (ValidationError, Refused):
        return None
    return payment


def _write(cycle: RequestResponseCycle, head: bytes, content: bytes) -> None:
    if cycle.transport.is_closing():  # nobody is there any more
        return
    parts = [head]
    for name, value in cycle.default_headers:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"content-length: %d\r\ncontent-type: application/json\r\n" % len(content))
    parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
    parts.append(content)
    cycle.transport.write(b"".join(parts))
    cycle.response_started = cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
