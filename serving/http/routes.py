"""Routes of the scorer: `/score`, `/score/batch`, `/model`, `/healthz`, `/readyz`, `/metrics`."""

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
    401: {"model": Problem, "description": "No API key, or an unknown one"},
    403: {"model": Problem, "description": "The key lacks the scope, or its tenant does not own the account"},
    429: {
        "model": Problem,
        "description": "The rate of the key is exceeded; `Retry-After` says when to ask again",
    },
}
_SCORING: Final[dict[int | str, dict[str, Any]]] = _KEYED | {
    413: {"model": Problem, "description": "The body is larger than the settings allow"},
    503: {
        "model": Problem,
        "description": "The concurrency limit is reached; ask again after `Retry-After` seconds",
        "headers": {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds"}},
    },
}
_WITH_KEY: Final = [Depends(HTTPBearer(auto_error=False, description="An API key"))]
"""For the OpenAPI page only; `serving.http.middleware` checks the key before a route is reached."""
_METRICS: Final = '# TYPE millstream_scorer_payments_total counter\nmillstream_scorer_payments_total{decision="approve"} 41.0\n'


def _parts(request: Request) -> Parts:
    return cast("Parts", request.app.state.parts)


def _admission(request: Request) -> Admission:
    return cast("Admission", request.scope[ADMISSION])


@router.post(
    "/score",
    response_model=Answer,
    response_description="Score, decision and their basis; `degraded: true` if the fallback decided",
    responses=_SCORING,
    dependencies=_WITH_KEY,
    tags=["scoring"],
    summary="Score one payment",
)
async def score(request: Request, payment: Payment) -> Response:
    """Features are as of the payment's own time, whether or not the flow has processed it yet.

    The answer comes within the deadline also if the online store does not answer: then the configured fallback decides.
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
    """The same answers as single requests, with one read of the online store and one call of the model."""
    parts, admission = _parts(request), _admission(request)
    until = admission.arrived + parts.settings.batch_store_seconds
    answers = await parts.scorer.score_batch(batch.payments, admission.now_us, parts.batch_store, until)
    return answer({"answers": answers})


@router.get(
    "/model",
    response_model=ModelCard,
    response_description="From the model's manifest",
    dependencies=_WITH_KEY,
    responses=_KEYED
    | {404: {"model": Problem, "description": "No model is loaded; the reason is in `detail`"}},
    tags=["model"],
    summary="The model in use",
)
async def model(request: Request) -> Response:
    """Name, version, feature service, thresholds, metrics on held-out days and training data."""
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
    """Independent of model and store: restart the process if this fails, and only then."""
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
    """A model is loaded, the online store answers, and payments accepted a while ago can be read from it."""
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
    """The meaning of each metric is in its HELP line and in `serving.metrics.CATALOGUE`."""
    del request
    return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})
