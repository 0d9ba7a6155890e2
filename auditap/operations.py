"""What every process answers to its operators: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from schemas.metric_defs import Metrics

Readiness = Callable[[], Awaitable[Mapping[str, bool]]]
Degraded = Callable[[], Sequence[str]]


def with_operations(
    app: ASGIApp | None, metrics: Metrics, readiness: Readiness, degraded: Degraded = tuple
) -> Starlette:
    """Return `app`, or nothing, with the operators' routes before it.

    `readiness` returns what the process needs, by name, and whether it is there: `/readyz` is 200 where all of
    it is, else 503; `degraded` returns what it does without for now, and is told beside them. `/healthz` is 200 as long as the loop turns.
    """

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        parts = dict(await readiness())
        ready = all(parts.values())
        answer: dict[str, object] = {"ready": ready, "parts": parts}
        if without := degraded():
            answer["degraded"] = list(without)
        return JSONResponse(answer, status_code=200 if ready else 503)

    async def exposition(_request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    routes: list[BaseRoute] = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
    ]
    if app is not None:
        routes.append(Mount("/", app))
    return Starlette(routes=routes)
