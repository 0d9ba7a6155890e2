"""The log API: its document's routes, each joined to what answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from log_api.access_log import AccessLog
from log_api.answers import Answer, Answers
from log_api.config import LogApiConfig
from log_api.contract import Contract, Operation
from log_api.failures import ApiFailure, failed, failure_response, method_not_allowed, not_found, unavailable
from log_api.ports import LogDatabase
from schemas.errors import RetryableError, StartupError
from schemas.metric_defs import Metrics


def log_api_app(
    database: LogDatabase,
    settings: LogApiConfig,
    metrics: Metrics,
    clock_ms: Callable[[], int],
    stopping: Callable[[], bool] = lambda: False,
) -> Starlette:
    """Return the application. Whoever calls opens and closes the `database`. `clock_ms`: now, in Unix milliseconds.
    `stopping`: whether tails are to end.

    Raises StartupError where the document names an operation that nothing answers, or the reverse.
    """
    contract = Contract(settings)
    answers = Answers(database, settings, contract, clock_ms, stopping)
    routes = contract_routes(contract, settings.prefix, answers.by_operation())

    async def on_failure(_request: Request, failure: Exception) -> Response:
        return failure_response(failure if isinstance(failure, ApiFailure) else failed())

    async def on_unavailable(_request: Request, _error: Exception) -> Response:
        return failure_response(unavailable(settings.retry_after_s))

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(
                AccessLog,
                metrics=metrics,
                routes={route.endpoint: route.path for route in routes},
            )
        ],
        exception_handlers={
            ApiFailure: on_failure,
            RetryableError: on_unavailable,
            HTTPException: _on_routing_failure,
        },
    )
    # A redirect would repeat the path that was sent.
    app.router.redirect_slashes = False
    return app


def contract_routes(contract: Contract, prefix: str, answers: Mapping[str, Answer]) -> list[Route]:
    """Return a route for every operation of the document. Raises StartupError where the two sides differ."""
    if {operation.id for operation in contract.operations} != set(answers):
        raise StartupError("The log API's document and its routes differ: reinstall auditap.")
    # A path with a name in it would take what a plain one beside it is for.
    ordered = sorted(
        contract.operations, key=lambda operation: [part[:1] == "{" for part in operation.path.split("/")]
    )
    return [_route(operation, prefix, answers[operation.id]) for operation in ordered]


def _route(operation: Operation, prefix: str, answer: Answer) -> Route:
    async def endpoint(request: Request) -> Response:
        return await answer(operation, request)

    route = Route(prefix + operation.path, endpoint, methods=[operation.method], name=operation.id)
    # Starlette adds HEAD, which the document does not have.
    route.methods = {operation.method.upper()}
    return route


async def _on_routing_failure(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405 and isinstance(error, HTTPException):
        return failure_response(method_not_allowed((error.headers or {}).get("Allow", "")))
    return failure_response(not_found() if status == 404 else failed())
