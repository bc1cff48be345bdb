"""`uvicorn serving.app:app`: the scorer as a web application. Importing it reads and opens nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serving import bootstrap
from serving.bootstrap import Parts
from serving.http.middleware import AdmissionMiddleware
from serving.http.routes import router

DESCRIPTION = """Scores payments for fraud, with features as of each payment's own time.

Every answer says which model decided, how fresh its features were, and whether anything was missing.
If features or model are not available in time, a documented fallback decides and the answer is marked `degraded`."""


def create_app(build: Callable[[], Parts] = bootstrap.from_environment) -> FastAPI:
    """Return an application that builds its parts when it starts and stops them when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.parts = parts = build()
        await parts.start()
        try:
            yield
        finally:
            await parts.stop()

    app = FastAPI(
        title="Millstream scorer",
        description=DESCRIPTION,
        version="0.1.0",
        lifespan=lifespan,
        openapi_tags=[
            {"name": "scoring", "description": "Payments in, decisions out"},
            {"name": "model", "description": "What decides"},
            {"name": "operation", "description": "For operators"},
        ],
    )
    app.include_router(router)
    app.add_middleware(AdmissionMiddleware)
    return app


app = create_app()
