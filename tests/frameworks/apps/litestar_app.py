from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, Request, Response, delete, get, post
from litestar.response import Stream

from tests.frameworks.apps.tapping import ACTOR, PARTS, tapped_asgi, widget


@get("/widgets")
async def read() -> Response[dict[str, object]]:
    return Response(widget(0), headers=ACTOR)


@post("/widgets")
async def write(request: Request[Any, Any, Any]) -> Response[dict[str, object]]:
    return Response(widget(len(await request.body())), headers=ACTOR)


@delete("/widgets")
async def remove() -> Response[None]:
    return Response(None, status_code=204, headers=ACTOR)


@post("/stream", status_code=200)
async def stream(request: Request[Any, Any, Any]) -> Stream:
    await request.body()

    async def parts() -> AsyncIterator[bytes]:
        for part in PARTS:
            yield part

    return Stream(parts(), media_type="application/json")


@post("/fail")
async def fail() -> None:
    raise RuntimeError("on purpose")


app = tapped_asgi(Litestar([read, write, remove, stream, fail]))
