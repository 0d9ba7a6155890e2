"""The smallest tapped service: one operation, and the middleware that sends its request/response pairs to the collector."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from auditap_tap import AuditTapMiddleware


async def update_order(request: Request) -> JSONResponse:
    order = await request.json()
    # Who did it is read from the response, where a client cannot forge it.
    identity = {"x-account-id": "acme", "x-actor-id": "u-7", "x-actor-email": "bo@acme.example"}
    return JSONResponse({"status": order["status"]}, headers=identity)


app = AuditTapMiddleware(
    Starlette(routes=[Route("/orders/{order_id}", update_order, methods=["PUT"])]),
    collector="unix:auditap-data/collector.sock",
    tap_id="shop-1",
)
