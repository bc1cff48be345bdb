"""The scorer over HTTP: `/score`, `/score/batch`, `/model`, `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from typing import Any, Final, cast

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from serving.api.requests import Batch, Payment
from serving.api.responses import Alive, Answer, BatchAnswer, ModelCard, Problem, Ready
from serving.bootstrap import Parts
from serving.http.decide import ADMISSION, Admission
from serving.http.json_route import JsonRoute, answer

router = APIRouter(route_class=JsonRoute)

_KEYED: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": Problem, "description": "No API key, or one that is not known"},
    403: {"model": Problem, "description": "The key has not the scope, or its tenant not the account"},
    429: {
        "model": Problem,
        "description": "The key has asked for too much; `Retry-After` says when it may again",
    },
}
_SCORING: Final[dict[int | str, dict[str, Any]]] = _KEYED | {
    413: {"model": Problem, "description": "The body is larger than the settings allow"},
    503: {
        "model": Problem,
        "description": "As many requests are inside as can be answered in time; ask again after `Retry-After` seconds",
        "headers": {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds"}},
    },
}
_WITH_KEY: Final = [Depends(HTTPBearer(auto_error=False, description="An API key"))]
"""For the documentation; `serving.http.middleware` has asked before a route is reached."""
_METRICS: Final = '# TYPE millstream_scorer_payments_total counter\nmillstream_scorer_payments_total{decision="approve"} 41.0\n'


def _parts(request: Request) -> Parts:
    return cast("Parts", request.app.state.parts)


def _admission(request: Request) -> Admission:
    return cast("Admission", request.scope[ADMISSION])


@router.post(
    "/score",
    response_model=Answer,
    response_description="Score, decision and what they rest on; `degraded: true` when the fallback decided",
    responses=_SCORING,
    dependencies=_WITH_KEY,
    tags=["scoring"],
    summary="Score one payment",
)
async def score(request: Request, payment: Payment) -> Response:
    """Features are read and finished as of the payment's own time, whether or not the flow has seen it yet.

    Answers within the deadline whatever happens to the online store: then the configured fallback decides.
    """
    parts, admission = _parts(request), _admission(request)
    until = admission.arrived + parts.settings.store_seconds
    return answer(await parts.scorer.score(payment, admission.now_us, parts.store, until))


@router.post(
    "/score/batch",
    response_model=BatchAnswer,
    response_description="One answer per payment, in their order",
    responses=_SCORING,
    dependencies=_WITH_KEY,
    tags=["scoring"],
    summary="Score up to 1,000 payments",
)
async def score_batch(request: Request, batch: Batch) -> Response:
    """The same answers as one by one, with one read of the online store and one call of the model."""
    parts, admission = _parts(request), _admission(request)
    until = admission.arrived + parts.settings.batch_store_seconds
    answers = await parts.scorer.score_batch(batch.payments, admission.now_us, parts.batch_store, until)
    return answer({"answers": answers})


@router.get(
    "/model",
    response_model=ModelCard,
    response_description="What its manifest says",
    dependencies=_WITH_KEY,
    responses=_KEYED
    | {404: {"model": Problem, "description": "No model is loaded; the reason is in `detail`"}},
    tags=["model"],
    summary="The model in use",
)
async def model(request: Request) -> Response:
    """Name, version, feature service, thresholds, metrics on held-out days and the data it was trained on."""
    champion = _parts(request).champion
    used = champion.current
    if used is None:
        return answer({"detail": f"no model is loaded: {champion.problem}"}, 404)
    return answer(
        {
            "name": used.name,
            "version": used.version,
            "created": used.created,
            "service": used.service,
            "schema_hash": used.schema_hash,
            "features": used.features,
            "thresholds": {"review": used.review, "decline": used.decline},
            "metrics": used.metrics,
            "data": used.data,
        }
    )


@router.get(
    "/healthz",
    response_model=Alive,
    response_description="The process answers",
    tags=["operation"],
    summary="Alive?",
)
async def healthz(request: Request) -> Response:
    """Says nothing about model or store: restart the process when this fails, and only then."""
    del request
    return answer({"status": "alive"})


@router.get(
    "/readyz",
    response_model=Ready,
    response_description="All checks passed",
    dependencies=_WITH_KEY,
    responses=_KEYED
    | {503: {"model": Ready, "description": "Not ready; `checks` says which failed and why"}},
    tags=["operation"],
    summary="Ready?",
)
async def readyz(request: Request) -> Response:
    """A model is loaded, the online store answers, and payments the bus accepted a while ago can be read from it."""
    checks = await _parts(request).readiness.checks()
    ready = all(check["ok"] for check in checks)
    return answer({"ready": ready, "checks": checks}, 200 if ready else 503)


@router.get(
    "/metrics",
    response_class=Response,
    dependencies=_WITH_KEY,
    responses=_KEYED
    | {200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": _METRICS}}}},
    response_description="Prometheus text format",
    tags=["operation"],
    summary="Metrics",
)
async def metrics(request: Request) -> Response:
    """What every name means stands in `serving.metrics.CATALOGUE` and in its HELP line."""
    del request
    return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})
