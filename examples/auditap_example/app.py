"""The example API as an ASGI service: every operation of the document, with a small state in memory.

An object lives at its path: POST creates one below its collection, GET shows it or lists the collection, PUT replaces
it, PATCH changes it, DELETE removes it. The tables hold what single operations do beside that.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import jsonschema
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from auditap_example.cast import Caller, callers, identity_headers
from auditap_example.document import JSON, Operation, base_path, operations
from auditap_example.state import Row, State, stored

BODY_BYTES_MAX = 1 << 20
_ADDED: Mapping[str, Row] = {
    "tokens-create": {"status": "active"},
    "zones-create": {"status": "pending", "paused": False},
}
_UNIQUE = {"zones-create": ("name",), "dns-records-create": ("type", "name", "content")}
_SECRET_SHOWN_ONCE = {"tokens-create": "value", "access-login": "session_token"}


class Problem(HTTPException):
    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(status, message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Call:
    """A valid, authorized request. `path` stands below the base path."""

    operation: Operation
    caller: Caller
    path: str
    query: Mapping[str, str]
    body: Row
    state: State

    def existing(self) -> Row:
        """Return the row that the path names. Raises Problem 404."""
        row = self.state.get(self.path)
        if row is None:
            raise Problem(404, 7003, "There is no such object")
        return row


def example_app() -> Starlette:
    """Return a service with a state of its own, which starts with the cast.

    Its routes are below the base path of the document's server. Callers send the bearer credential of one of
    `cast.callers()`. Every response has a ray id and, where the caller is known, `x-actor-*`; also `x-account-id` where
    the path does not name the account.
    """
    state = State()
    routes = [
        Route(base_path() + operation.template, _endpoint(operation, state), methods=[operation.method])
        for operation in operations()
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refused})


def _endpoint(operation: Operation, state: State) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        caller = _authorized(request, state)
        path = request.url.path.removeprefix(base_path())
        path = f"/user/{caller.user_id}" if path == "/user" else path
        body = await _body(operation, request)
        found = _METHODS[operation.method](Call(operation, caller, path, request.query_params, body, state))
        schema = operation.schema_of(operation.success_status)
        if schema is None:
            return _response(request, operation.success_status)
        result = _declared(schema["properties"]["result"], found)
        content = {"result": result, "success": True, "errors": [], "messages": []}
        return _response(request, operation.success_status, content)

    return endpoint


def _declared(result: Mapping[str, Any], found: Any) -> Any:
    """Return what the schema of a result lets a response show of rows."""
    if isinstance(found, list):
        return [_declared(result["items"], row) for row in found]
    return {name: found[name] for name in result["properties"] if name in found}


# ── what each method does ──


def _post(call: Call) -> Row:
    operation_id = call.operation.operation_id
    if operation_id == "access-login" and "assertion" not in call.body:
        raise Problem(403, 12130, "The sign-in is denied")
    unique = _UNIQUE.get(operation_id, ())
    for other in call.state.below(call.path):
        if unique and all(other[name] == call.body[name] for name in unique):
            raise Problem(409, 1061, "There is one like it already")
    fields = {**call.body, **_ADDED.get(operation_id, {}), "account": asdict(call.caller.account)}
    row = stored(secrets.token_hex(16), fields, _now())
    call.state.put(f"{call.path}/{row['id']}", row)
    shown_once = _SECRET_SHOWN_ONCE.get(operation_id)
    return row | {shown_once: secrets.token_urlsafe(40)} if shown_once else row


def _get(call: Call) -> Row | list[Row]:
    if call.operation.template == "/user" or call.operation.template.endswith("}"):
        return call.existing()
    rows = call.state.below(call.path)
    return [row for row in rows if row["account"]["id"] == call.caller.account.id and _fits(row, call.query)]


def _fits(row: Row, query: Mapping[str, str]) -> bool:
    return all(row[name] in wanted.split(",") for name, wanted in query.items() if name in row)


def _put(call: Call) -> Row:
    if call.operation.template.endswith("_name}"):
        row = stored(call.path.rpartition("/")[2], call.body, _now())
    else:
        old = call.existing()
        row = {**call.body, **{name: old[name] for name in ("id", "created_at", "account")}}
    return _changed(call, row)


def _patch(call: Call) -> Row:
    return _changed(call, {**call.existing(), **call.body})


def _changed(call: Call, row: Row) -> Row:
    row["modified_at"] = _now()
    call.state.put(call.path, row)
    return row


def _delete(call: Call) -> Row:
    row = call.existing()
    if call.path in call.state.cast:
        raise Problem(403, 9109, "The example keeps this one")
    call.state.remove(call.path)
    return row


_METHODS: Mapping[str, Callable[[Call], Row | list[Row]]] = {
    **dict.fromkeys(("GET", "HEAD"), _get),
    "POST": _post,
    "PUT": _put,
    "PATCH": _patch,
    "DELETE": _delete,
}


# ── checks and responses ──


def _caller(request: Request) -> Caller | None:
    credential = request.headers.get("authorization", "").removeprefix("Bearer ")
    return next((caller for caller in callers() if caller.credential == credential), None)


def _authorized(request: Request, state: State) -> Caller:
    """Return who calls. Raises Problem 401, 404 for an unknown account or zone, 403 for one that is not the caller's."""
    caller = _caller(request)
    if caller is None:
        raise Problem(401, 10000, "Authentication error")
    for kind, variable in (("accounts", "account_id"), ("zones", "zone_id")):
        if variable in request.path_params:
            row = state.get(f"/{kind}/{request.path_params[variable]}")
            if row is None:
                raise Problem(404, 7003, "There is no such object")
            if row.get("account", row)["id"] != caller.account.id:
                raise Problem(403, 9109, "You may not do this")
    return caller


async def _body(operation: Operation, request: Request) -> Row:
    """Return the validated JSON body, or the digest of a body of another media type. Raises Problem 400, 413."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > BODY_BYTES_MAX:
            raise Problem(413, 1002, "The body is too large")
    if operation.body is None:
        return {}
    if operation.media != JSON:
        return {"etag": hashlib.blake2b(content, digest_size=16).hexdigest()}
    try:
        body: Row = msgspec.json.decode(bytes(content))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, 1003, "The body is not JSON") from None
    for error in islice(jsonschema.Draft202012Validator(operation.body).iter_errors(body), 1):
        # Like many APIs it quotes the request's value, which the redactor must remove.
        raise Problem(400, 1004, f"Does not fit: {error.message[:200]}")
    return body


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        error = Problem(getattr(error, "status_code", 500), 7000, "No such route")
    errors = [{"code": error.code, "message": error.detail}]
    content = {"result": None, "success": False, "errors": errors, "messages": []}
    return _response(request, error.status_code, content)


def _response(request: Request, status: int, content: Any = None) -> Response:
    headers = {"cf-ray": f"{secrets.token_hex(8)}-AMS"}
    if caller := _caller(request):
        headers |= identity_headers(caller, request.path_params)
    if content is None:
        return Response(status_code=status, headers=headers)
    return JSONResponse(content, status_code=status, headers=headers)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
