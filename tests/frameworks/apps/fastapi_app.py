from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from tests.frameworks.apps.tapping import ACTOR, PARTS, tapped_asgi, widget

api = FastAPI()


@api.get("/widgets")
async def read() -> JSONResponse:
    return JSONResponse(widget(0), headers=ACTOR)


@api.post("/widgets")
async def write(request: Request) -> JSONResponse:
    return JSONResponse(widget(len(await request.body())), 201, ACTOR)


@api.delete("/widgets")
async def remove() -> Response:
    return Response(status_code=204, headers=ACTOR)


@api.post("/stream")
async def stream(request: Request) -> StreamingResponse:
    await request.body()

    async def parts() -> AsyncIterator[bytes]:
        for part in PARTS:
            yield part

    return StreamingResponse(parts(), media_type="application/json")


@api.post("/fail")
async def fail() -> None:
    raise RuntimeError("on purpose")


app = tapped_asgi(api)
