"""The log API as an ASGI application: the routes of its OpenAPI document, each with its handler, and the explorer's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from log_api.config import LogApiConfig
from log_api.contract import Contract, Operation
from log_api.disconnects import ClientDisconnectedError
from log_api.errors import (
    ApiError,
    busy,
    error_response,
    internal_error,
    method_not_allowed,
    not_found,
    too_many_at_once,
    unavailable,
)
from log_api.fair_shares import NothingFreeError, ShareExceededError
from log_api.handlers import Handler, Handlers
from log_api.path_segments import EncodedSlashes, path_values
from log_api.ports import LogDatabase
from log_api.request_log import RequestLog
from log_api.static_files import explorer_routes
from schemas.errors import RetryableError, StartupError
from schemas.metric_defs import Metrics


def log_api_app(
    database: LogDatabase,
    settings: LogApiConfig,
    metrics: Metrics,
    clock_ms: Callable[[], int],
    stopping: Callable[[], bool] = lambda: False,
) -> Starlette:
    """Return the application.

    The caller opens and closes the `database`. `clock_ms` returns Unix milliseconds. Tails end once `stopping` returns
    True. Raises StartupError if the operations of the document and the handlers differ.
    """
    contract = Contract(settings)
    handlers = Handlers(database, settings, contract, metrics, clock_ms=clock_ms, stopping=stopping)
    routes = contract_routes(contract, settings.prefix, handlers.by_operation())
    routes += explorer_routes(settings.prefix)

    async def on_api_error(_request: Request, error: Exception) -> Response:
        return error_response(error if isinstance(error, ApiError) else internal_error())

    async def on_unavailable(_request: Request, _error: Exception) -> Response:
        return error_response(unavailable(settings.limits.retry_after_s))

    async def on_share_exceeded(_request: Request, _error: Exception) -> Response:
        metrics.log_api_refused.labels("share").inc()
        return error_response(too_many_at_once(settings.limits.retry_after_s))

    async def on_nothing_free(_request: Request, _error: Exception) -> Response:
        metrics.log_api_refused.labels("full").inc()
        return error_response(busy(settings.limits.retry_after_s))

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(EncodedSlashes),
            Middleware(
                RequestLog,
                metrics=metrics,
                routes={route.endpoint: route.path for route in routes},
            ),
        ],
        exception_handlers={
            ApiError: on_api_error,
            RetryableError: on_unavailable,
            ShareExceededError: on_share_exceeded,
            NothingFreeError: on_nothing_free,
            ClientDisconnectedError: _on_disconnected,
            HTTPException: _on_routing_error,
        },
    )
    # A redirect would repeat the path that was sent, which no response may do.
    app.router.redirect_slashes = False
    return app


def contract_routes(contract: Contract, prefix: str, handlers: Mapping[str, Handler]) -> list[Route]:
    """Return a route for every operation of the document. Raises StartupError if operations and handlers differ."""
    if {operation.id for operation in contract.operations} != set(handlers):
        raise StartupError("The log API's document and its routes differ: reinstall auditap.")
    # Starlette takes the first route that matches, so literal segments must come before parameters.
    ordered = sorted(
        contract.operations, key=lambda operation: [part[:1] == "{" for part in operation.path.split("/")]
    )
    return [_route(operation, prefix, handlers[operation.id]) for operation in ordered]


def _route(operation: Operation, prefix: str, handler: Handler) -> Route:
    async def endpoint(request: Request) -> Response:
        request.scope["path_params"] = path_values(request.path_params)
        return await handler(operation, request)

    route = Route(prefix + operation.path, endpoint, methods=[operation.method], name=operation.id)
    # Starlette adds HEAD, which is not in the document.
    route.methods = {operation.method.upper()}
    return route


async def _on_disconnected(_request: Request, _error: Exception) -> Response:
    # Nobody reads it. Log and metrics show the status that others use for it.
    return Response(status_code=499)


async def _on_routing_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405 and isinstance(error, HTTPException):
        return error_response(method_not_allowed((error.headers or {}).get("Allow", "")))
    return error_response(not_found() if status == 404 else internal_error())
