"""The example API as a service: every operation of the document, against a small state in memory."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jsonschema
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from auditap.example_api.cast import Caller, callers, identity_headers
from auditap.example_api.document import Operation, base_path, operations, validator
from auditap.example_api.handlers import HANDLERS, Call, Handler, Problem, not_found
from auditap.example_api.state import State, populated

BODY_BYTES_MAX = 1 << 20
Endpoint = Callable[[Request], Awaitable[Response]]


def example_app() -> Starlette:
    """Return the service. Each one made has a state of its own, which begins with the cast and is bounded.

    It answers below the base path of the document's server. A caller shows the bearer credential of one of
    `cast.callers()`. Every answer carries a ray id, and who was recognised: `x-actor-*`, and `x-account-id` where
    the path does not tell the account.
    """
    state = populated()
    by_template: dict[str, dict[str, Served]] = defaultdict(dict)
    for operation in operations():
        by_template[operation.template][operation.method] = Served.of(operation)
    routes = [
        Route(base_path() + template, _endpoint(by_method, state), methods=[*by_method, "OPTIONS"])
        for template, by_method in sorted(by_template.items(), key=lambda item: _literal_first(item[0]))
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})


def _literal_first(template: str) -> list[tuple[bool, str]]:
    return [(segment.startswith("{"), segment) for segment in template.split("/")]


@dataclass(frozen=True, slots=True)
class Served:
    """An operation with what serves it, made ready once."""

    operation: Operation
    handler: Handler
    body: jsonschema.Draft202012Validator | None
    query: Mapping[str, tuple[Mapping[str, Any], jsonschema.Draft202012Validator]]

    @classmethod
    def of(cls, operation: Operation) -> Served:
        """Return the operation made ready. Raises KeyError where nothing handles it."""
        schema = operation.request_media.get("application/json")
        query = {
            parameter["name"]: (parameter["schema"], validator(parameter["schema"]))
            for parameter in operation.parameters
            if parameter["in"] == "query"
        }
        body = None if schema is None else validator(schema)
        return cls(operation, HANDLERS[operation.operation_id], body, query)


def _endpoint(by_method: Mapping[str, Served], state: State) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" and "HEAD" not in by_method else request.method
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": ", ".join(by_method), "cf-ray": _ray_id()})
        if method not in by_method:
            raise HTTPException(405)
        caller = _caller(request)
        try:
            response = await _serve(by_method[method], request, caller, state)
        except Problem as problem:
            response = _refusal(problem)
        response.headers.update(_identity_headers(caller, request))
        return response

    return endpoint


async def _serve(served: Served, request: Request, caller: Caller | None, state: State) -> Response:
    key = tuple(request.path_params.values())
    if caller is None:
        raise Problem(401, 10000, "Authentication error")
    _authorise(caller, request, state)
    body = await _body(served, request)
    call = Call(caller=caller, key=key, query=_query(served, request), body=body, state=state)
    result = served.handler(call)
    status = served.operation.success_status
    if served.operation.schema_of(status) is None:
        return Response(status_code=status)
    envelope = {"result": result, "success": True, "errors": [], "messages": []}
    return JSONResponse(envelope, status_code=status)


def _caller(request: Request) -> Caller | None:
    credential = request.headers.get("authorization", "").removeprefix("Bearer ")
    return next((caller for caller in callers() if caller.credential == credential), None)


def _authorise(caller: Caller, request: Request, state: State) -> None:
    """Raise Problem 404 for an account or a zone that is not there, 403 where the caller may not act."""
    account_id = request.path_params.get("account_id")
    if zone_id := request.path_params.get("zone_id"):
        zone = state.get("zones", (zone_id,))
        if zone is None:
            raise not_found()
        account_id = zone["account"]["id"]
    elif account_id and state.get("accounts", (account_id,)) is None:
        raise not_found()
    elsewhere = account_id not in (None, caller.account.id) and not caller.everywhere
    if elsewhere or (caller.read_only and request.method not in ("GET", "HEAD")):
        raise Problem(403, 9109, "You may not do this")


async def _body(served: Served, request: Request) -> Any:
    """Return the checked JSON body, or the bytes of another declared media type. Raises Problem 400, 413."""
    if not served.operation.request_media:
        return None
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > BODY_BYTES_MAX:
            raise Problem(413, 1002, "The body is too large")
    if served.body is None:
        return bytes(content)
    try:
        body = msgspec.json.decode(bytes(content))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, 1003, "The body is not JSON") from None
    _check(served.body, body, "body")
    return body


def _query(served: Served, request: Request) -> dict[str, Any]:
    """Return the declared query parameters that were given. Raises Problem 400 where one does not fit."""
    given: dict[str, Any] = {}
    for name, (schema, check) in served.query.items():
        if (text := request.query_params.get(name)) is not None:
            given[name] = _parameter(schema, text)
            _check(check, given[name], name)
    return given


def _parameter(schema: Mapping[str, Any], text: str) -> Any:
    if schema.get("type") == "array":
        return text.split(",")
    if schema.get("type") == "integer" and text.isdecimal() and len(text) < 12:
        return int(text)
    return text


def _check(check: jsonschema.Draft202012Validator, value: Any, where: str) -> None:
    error = next(iter(check.iter_errors(value)), None)
    if error is not None:
        # Like many an API, it quotes what was sent: that is for the redactor to take out.
        field = ".".join([where, *(str(step) for step in islice(error.absolute_path, 8))])
        raise Problem(400, 1004, f"Does not fit: {error.message[:200]}", field=field)


def _refusal(problem: Problem) -> Response:
    notice = {"code": problem.code, "message": problem.message}
    if problem.field:
        notice["field"] = problem.field
    content: dict[str, Any] = {"result": None, "success": False, "errors": [notice], "messages": []}
    if problem.conflicting_id:
        content["conflicting_id"] = problem.conflicting_id
    return JSONResponse(content, status_code=problem.status)


async def _unrouted(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    response = _refusal(Problem(status, 7000, "No such route"))
    response.headers["cf-ray"] = _ray_id()
    return response


def _ray_id() -> str:
    return f"{secrets.token_hex(8)}-AMS"


def _identity_headers(caller: Caller | None, request: Request) -> dict[str, str]:
    headers = {"cf-ray": _ray_id()}
    if caller is not None:
        headers |= identity_headers(caller, request.path_params)
    return headers
