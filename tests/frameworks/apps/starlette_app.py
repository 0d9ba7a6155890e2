from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.frameworks.apps.tapping import ACTOR, PARTS, tapped_asgi, widget


async def widgets(request: Request) -> Response:
    if request.method == "DELETE":
        return Response(status_code=204, headers=ACTOR)
    body = await request.body()
    return JSONResponse(widget(len(body)), 201 if request.method == "POST" else 200, ACTOR)


async def stream(request: Request) -> Response:
    await request.body()

    async def parts() -> AsyncIterator[bytes]:
        for part in PARTS:
            yield part

    return StreamingResponse(parts(), media_type="application/json")


async def fail(request: Request) -> Response:
    raise RuntimeError("on purpose")


app = tapped_asgi(
    Starlette(
        routes=[
            Route("/widgets", widgets, methods=["GET", "POST", "DELETE"]),
            Route("/stream", stream, methods=["POST"]),
            Route("/fail", fail, methods=["POST"]),
        ]
    )
)
