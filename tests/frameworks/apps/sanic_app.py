from __future__ import annotations

from sanic import Request, Sanic, json
from sanic.response import HTTPResponse, empty

from tests.frameworks.apps.tapping import ACTOR, PARTS, tapped_asgi, widget

api = Sanic("widgets")


@api.get("/widgets")
async def read(request: Request) -> HTTPResponse:
    return json(widget(0), headers=ACTOR)


@api.post("/widgets")
async def write(request: Request) -> HTTPResponse:
    return json(widget(len(request.body)), 201, ACTOR)


@api.delete("/widgets")
async def remove(request: Request) -> HTTPResponse:
    return empty(headers=ACTOR)


@api.post("/stream")
async def stream(request: Request) -> None:
    response = await request.respond(content_type="application/json")
    assert response is not None
    for part in PARTS:
        await response.send(part)
    await response.eof()


@api.post("/fail")
async def fail(request: Request) -> HTTPResponse:
    raise RuntimeError("on purpose")


app = tapped_asgi(api)
