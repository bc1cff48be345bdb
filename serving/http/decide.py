"""The rules of a request, in one order, whichever way it comes in.

With the head of the request:

1. address, API key, scope and port    401, 403, 404    `Authorizer.admit`
2. concurrency limit                   503              scoring routes only, as 4 to 8
3. rate of the key                     429

With its body:

4. size                                413
5. the key again, if the keys changed meanwhile, and the concurrency limit again
6. JSON, fields and time               422
7. tenant                              403
8. rate, for the other payments of a batch    429

Routes and methods that do not exist (404, 405) are FastAPI's. Adapters: `middleware` and `json_route` for every ASGI
server, `score_protocol` for `python -m serving`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from feature_repo.stores.clock import to_us
from serving import metrics
from serving.admission.api_keys import ApiKey, Keys
from serving.admission.authorize import SCOPES_NEEDED, Refused, route_of
from serving.api.requests import Batch, Payment
from serving.bootstrap import Parts
from serving.http.validation_errors import explain

ADMISSION: Final = "millstream.admission"
"""Key of the ASGI scope for the `Admission` of a request whose head was accepted."""
BUSY: Final = "busy"
"""Reason of a refusal by the concurrency limit."""
_VALIDATE: Final[Mapping[str, Callable[[bytes | bytearray], Payment | Batch]]] = {
    "/score": TypeAdapter(Payment).validate_json,
    "/score/batch": TypeAdapter(Batch).validate_json,
}


@dataclass(slots=True)
class Admission:
    """A request whose head was accepted; `payload` and `now_us` are set once its body is.

    `arrived` is `time.perf_counter()` when the head came, `now_us` the scorer's clock (int64 UTC us) when the body was
    complete.
    """

    key: ApiKey
    keys: Keys | None
    """The keys among which `key` was found."""
    route: str
    arrived: float
    payload: Payment | Batch | None = None
    now_us: int = 0


def decide(
    parts: Parts,
    scope: Mapping[str, Any],
    admission: Admission | None = None,
    body: bytes | bytearray = b"",
) -> Admission:
    """Apply the rules of the head, or with `admission` (what they returned) those of the body; return the admission.

    `scope` is the ASGI scope of the request. `body` is the whole body, or a beginning of it that is longer than the
    route allows. Raises `Refused` for the first rule that the request breaks.
    """
    authorizer = parts.authorizer
    if admission is None:
        arrived, route = time.perf_counter(), route_of(scope)
        admission = Admission(authorizer.admit(scope), authorizer.keys, route, arrived)
        if SCOPES_NEEDED.get(route) == "score" and scope["method"] == "POST":
            _check_capacity(parts)
        authorizer.take_tokens(admission.key)
        return admission
    limit = parts.settings.max_bytes(admission.route)
    if len(body) > limit:
        raise Refused(413, "size", f"the body is larger than {limit} bytes; send less at once")
    if authorizer.keys is not admission.keys:
        admission.key = authorizer.admit(scope)
    _check_capacity(parts)
    admission.now_us = parts.clock()
    admission.payload = payload = _validate(admission.route, body)
    payments = [payload] if isinstance(payload, Payment) else payload.payments
    _check_times(payload, payments, admission.now_us, parts.settings.max_future_skew_seconds)
    authorizer.check_tenant(admission.key, payments)
    if len(payments) > 1:
        authorizer.take_tokens(admission.key, len(payments) - 1)
    return admission


def count_refusal(refused: Refused) -> None:
    """Count a refusal that is being answered, by its reason."""
    if refused.reason == BUSY:
        metrics.SHED.labels(BUSY).inc()
    elif refused.status != 422:  # counted as a request with that status
        metrics.REFUSED.labels(refused.reason).inc()


def _check_capacity(parts: Parts) -> None:
    if parts.limiter.is_full:
        detail = "too many payments at once; ask again in a second, or ask another scorer"
        raise Refused(503, BUSY, detail, {"retry-after": "1"})


def _validate(route: str, body: bytes | bytearray) -> Payment | Batch:
    try:
        return _VALIDATE[route](body)
    except ValidationError as error:
        raise Refused(422, "invalid", explain(error, body)) from error


def _check_times(
    payload: Payment | Batch, payments: Sequence[Payment], now_us: int, max_skew_seconds: float
) -> None:
    """Refuse payments from the future: a wrong clock or time zone, which the flow would not accept either."""
    latest = now_us + max_skew_seconds * 1e6
    wrong = [
        i
        for i, payment in enumerate(payments)
        if payment.event_timestamp is not None and to_us(payment.event_timestamp) > latest
    ]
    if wrong:
        errors = [
            {
                "type": "datetime_ahead",
                "loc": ("body", *(() if payload is payments[i] else ("payments", i)), "event_timestamp"),
                "msg": f"Input should be at most {max_skew_seconds:g} s ahead of the scorer's clock",
            }
            for i in wrong
        ]
        raise Refused(422, "invalid", errors)
