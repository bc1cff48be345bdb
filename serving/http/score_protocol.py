"""`POST /score` from uvicorn's parser to the scorer, and its answer in one write.

A third of a request of 0.5 ms was spent between socket and scorer: a dozen ASGI layers in, as many out, and two writes
(headers, body), each a system call that wakes the client. This adapter of `decide` passes them by. Other routes,
refusals by the head of a request, bodies over 16 kB and requests with an access log take the ASGI way, and get the
answers of `uvicorn serving.app:app`.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving import metrics
from serving.admission.authorize import Refused
from serving.api.requests import Payment
from serving.bootstrap import Parts
from serving.http.decide import ADMISSION, BUSY, Admission, count_refusal, decide
from serving.http.json_route import JSON_OPTIONS
from serving.http.upgrade import Http1Protocol

log = structlog.get_logger(__name__)

PATH: Final = "/score"
MAX_BYTES: Final = 16_384
"""A payment with the longest names has 2 kB; larger bodies take the ASGI way."""
_SECONDS: Final = metrics.REQUEST_SECONDS.labels(PATH)
_ANSWERED: Final = metrics.REQUESTS.labels(PATH, "200")


def protocol(app: FastAPI) -> type[HttpToolsProtocol]:
    """Return uvicorn's HTTP protocol with a short way for this application's `POST /score`."""

    class ScoreProtocol(Http1Protocol):
        _waiting: Admission | Refused | None = None
        """Decision on the head of `cycle`, whose body is not complete yet."""

        def _start_asgi_task(self, cycle: RequestResponseCycle, asgi: Any) -> None:
            if (
                cycle.scope["path"] != PATH
                or cycle.scope["method"] != "POST"
                or asgi is not self.app
                or cycle.access_log
                or cycle.waiting_for_100_continue
                or cycle.flow.write_paused  # ASGI's `send` waits for a client that does not read
            ):
                super()._start_asgi_task(cycle, asgi)
                return
            decision: Admission | Refused
            try:
                decision = decide(app.state.parts, cycle.scope)
            except Refused as refused:
                decision = refused
            if isinstance(decision, Refused) and decision.reason != BUSY:
                super()._start_asgi_task(cycle, asgi)  # decides the same again
            elif cycle.more_body:
                self._waiting = decision
            else:
                self._answer(cycle, decision)

        def on_body(self, body: bytes) -> None:
            """Take a piece of a body; one that grows too large takes the ASGI way."""
            super().on_body(body)
            if self._waiting is not None and len(self.cycle.body) > MAX_BYTES:
                if isinstance(self._waiting, Admission):
                    self.cycle.scope[ADMISSION] = self._waiting  # type: ignore[typeddict-unknown-key]
                self._waiting = None
                super()._start_asgi_task(self.cycle, self.app)

        def on_message_complete(self) -> None:
            """Answer a request whose body is complete."""
            super().on_message_complete()
            if self._waiting is not None:
                decision, self._waiting = self._waiting, None
                self._answer(self.cycle, decision)

        def _answer(self, cycle: RequestResponseCycle, decision: Admission | Refused) -> None:
            """Start to score, or refuse. The answer is written in a later turn of the loop.

            So many requests that arrive in one piece are answered in turn with those of other connections.
            """
            parts: Parts = app.state.parts
            try:
                if isinstance(decision, Refused):
                    raise decision
                decide(parts, cycle.scope, decision, cycle.body)
            except Refused as refused:
                self.loop.call_soon(_refuse, cycle, refused)
                return
            parts.limiter.acquire()
            task = self.loop.create_task(_serve(cycle, parts, decision))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    return ScoreProtocol


def _refuse(cycle: RequestResponseCycle, refused: Refused) -> None:
    phrase = HTTPStatus(refused.status).phrase.encode()
    head = b"HTTP/1.1 %d %b\r\n" % (refused.status, phrase)
    head += b"".join(b"%b: %b\r\n" % (k.encode(), v.encode()) for k, v in refused.headers.items())
    _write(cycle, head, orjson.dumps({"detail": refused.detail}, option=JSON_OPTIONS))
    count_refusal(refused)
    metrics.REQUESTS.labels(PATH, str(refused.status)).inc()


async def _serve(cycle: RequestResponseCycle, parts: Parts, admission: Admission) -> None:
    content, payment = b"", admission.payload
    assert isinstance(payment, Payment)
    try:
        until = admission.arrived + parts.settings.store_seconds
        made = await parts.scorer.score(payment, admission.now_us, parts.store, until)
        content = orjson.dumps(made, option=JSON_OPTIONS)
    except Exception:  # whatever it is, the client gets a 500, as from uvicorn
        log.exception("score.failed", event_id=payment.event_id)
    finally:
        parts.limiter.release()
    if not content:
        await cycle.send_500_response()
        return
    if cycle.flow.write_paused:
        await cycle.flow.drain()
    _write(cycle, b"HTTP/1.1 200 OK\r\n", content)
    _SECONDS.observe(time.perf_counter() - admission.arrived)
    _ANSWERED.inc()


def _write(cycle: RequestResponseCycle, head: bytes, content: bytes) -> None:
    """Write a response in one piece and let uvicorn go on with the connection, as its `send` does."""
    if cycle.transport.is_closing():  # the client has gone
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
