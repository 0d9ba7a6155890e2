"""The log API: its document's routes, each joined to what answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qsl

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from log_api.access_log import TOKEN_ID, AccessLog
from log_api.config import LogApiConfig
from log_api.contract import CheckedRequest, Contract, Operation
from log_api.cursors import Cursors
from log_api.failures import (
    ApiFailure,
    bad_parameter,
    failed,
    failure_response,
    method_not_allowed,
    not_found,
    unavailable,
)
from log_api.list_request import ListRequests, UnfitParameter
from log_api.listing import ListQuery
from log_api.ports import LogDatabase, Token
from log_api.records import page_body
from log_api.tokens import TokenCheck, authorize
from schemas.errors import RetryableError, StartupError
from schemas.identity import rfc3339_ms
from schemas.metric_defs import Metrics

Answer = Callable[[Operation, Request], Awaitable[Response]]


def log_api_app(
    database: LogDatabase, settings: LogApiConfig, metrics: Metrics, clock_ms: Callable[[], int]
) -> Starlette:
    """Return the application. Whoever calls opens and closes the `database`. `clock_ms`: now, in Unix milliseconds.

    Raises StartupError where the document names an operation that nothing answers, or the reverse.
    """
    contract = Contract(settings)
    answers = _Answers(database, settings, contract, clock_ms)
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
    return [_route(operation, prefix, answers[operation.id]) for operation in contract.operations]


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


class _Answers:
    """One method for each operation of the document."""

    def __init__(
        self, database: LogDatabase, settings: LogApiConfig, contract: Contract, clock_ms: Callable[[], int]
    ) -> None:
        self._database = database
        self._settings = settings
        self._contract = contract
        self._cursors = Cursors(settings.cursor_key)
        self._lists = ListRequests(self._cursors, settings.page_records_max, settings.product_categories)
        self._tokens = TokenCheck(database, clock_ms, settings.token_cache_ms, settings.tokens_cached_max)

    def by_operation(self) -> Mapping[str, Answer]:
        return {"listAuditLogs": self.list_audit_logs, "verifyToken": self.verify_token}

    async def list_audit_logs(self, operation: Operation, request: Request) -> Response:
        token = await self._authenticated(request)
        checked = self._checked(operation, request)
        authorize(token, request.path_params["account_id"])
        checked.require_parameters()
        query = self._list_query(operation, request.path_params["account_id"], checked)
        page = await self._database.page(query)
        cursor = self._cursors.after(query, page.last_id()) if page.more else None
        return Response(page_body(page, cursor), media_type="application/json")

    async def verify_token(self, operation: Operation, request: Request) -> Response:
        token = await self._authenticated(request)
        self._checked(operation, request).require_parameters()
        result = {"id": token.id.hex, "status": "active", "expires_on": rfc3339_ms(token.expires_ms)}
        body = {"success": True, "errors": [], "messages": [], "result": result}
        return Response(msgspec.json.encode(body), media_type="application/json")

    async def _authenticated(self, request: Request) -> Token:
        token = await self._tokens.authenticate(request.headers)
        request.scope["state"][TOKEN_ID] = str(token.id)
        return token

    def _checked(self, operation: Operation, request: Request) -> CheckedRequest:
        query_string = request.scope["query_string"]
        if len(query_string) > self._settings.query_bytes_max:
            raise bad_parameter("query", f"at most {self._settings.query_bytes_max} bytes")
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
        checked = self._contract.check(operation, request.path_params, pairs, request.headers)
        checked.require_route()
        return checked

    def _list_query(self, operation: Operation, account_id: str, checked: CheckedRequest) -> ListQuery:
        try:
            return self._lists.query(account_id, checked.query)
        except UnfitParameter as unfit:
            raise self._contract.bad_query(operation, unfit.name) from None
