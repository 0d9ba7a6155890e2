"""Records who reads the log: a tap captures the log API's own requests like those of any other API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from auditap.settings import Settings, token_in
from auditap_tap import AuditTapMiddleware
from log_api.path_segments import ALL_ACCOUNTS
from log_api.ports import Token
from log_api.request_log import TOKEN_STATE
from schemas.errors import StartupError

_ACTOR_HEADERS = (
    "x-actor-id",
    "x-actor-email",
    "x-actor-type",
    "x-actor-context",
    "x-actor-token-id",
    "x-actor-token-name",
    "x-account-id",
)


class AuditedReads(NamedTuple):
    """The application behind its tap, and the functions that start the tap and send the remaining captures."""

    app: ASGIApp
    start: Callable[[], None]
    close: Callable[[], None]


def with_read_audit(app: ASGIApp, settings: Settings, state_dir: Path) -> AuditedReads:
    """Return `app` behind a tap, or `app` itself if no collector is configured. Raises StartupError.

    The tap keeps its sequence numbers in `state_dir`.
    """
    read_audit = settings.api.read_audit
    if not read_audit.collector:
        return AuditedReads(app, lambda: None, lambda: None)
    if read_audit.token_file is None and read_audit.collector.startswith(("http://", "https://")):
        raise StartupError(
            "api.read_audit.token_file is required where api.read_audit.collector is no Unix socket: name the file of the tap's"
            " token."
        )
    try:
        tap = AuditTapMiddleware(
            _ChangedHeaders(app, _add_actor),
            collector=read_audit.collector,
            tap_id=read_audit.tap_id,
            token=token_in(read_audit.token_file, "api.read_audit.token_file", "the tap's token"),
            plain_http_allowed=settings.plain_http_allowed,
            queue_bytes_max=read_audit.queue_bytes_max,
            state_dir=state_dir,
            exclude_paths=("/healthz", "/readyz", "/metrics"),
        )
    except ValueError as error:
        raise StartupError(f"api.read_audit cannot be used: {error}.") from None
    # Before the response reaches the client.
    return AuditedReads(_ChangedHeaders(tap, _remove_actor), tap.start, tap.close)


class _ChangedHeaders:
    """Lets `change` change the headers of each response, given those and the request's scope."""

    def __init__(self, app: ASGIApp, change: Callable[[MutableHeaders, Scope], None]) -> None:
        self._app = app
        self._change = change

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._change(MutableHeaders(scope=message), scope)
            await send(message)

        # All that handle the request share it: the log API leaves the token there.
        scope.setdefault("state", {})
        await self._app(scope, receive, send_changed)


def _add_actor(headers: MutableHeaders, scope: Scope) -> None:
    """Add the headers from which the tap reads the actor, as a gateway would."""
    headers.update(_actor_headers(scope))


def _remove_actor(headers: MutableHeaders, _scope: Scope) -> None:
    for name in _ACTOR_HEADERS:
        del headers[name]


def _actor_headers(scope: Scope) -> dict[str, str]:
    token: Token | None = scope["state"].get(TOKEN_STATE)
    if token is None:
        return {}
    account = scope.get("path_params", {}).get("account_id", "")
    headers = {
        "x-actor-id": token.id.hex,
        "x-actor-type": "user" if token.email else "account",
        "x-actor-context": "api_token",
        "x-actor-token-id": token.id.hex,
        "x-actor-token-name": token.name,
        "x-actor-email": token.email or "",
        "x-account-id": "" if account == ALL_ACCOUNTS else account,
    }
    # A name that no header can hold is left out; the token's id is there in any case.
    return {
        name: value for name, value in headers.items() if value and value.isascii() and value.isprintable()
    }
