"""Reading the log is recorded in the log: the log API's own requests are tapped like any other API's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from auditap.settings import ReadAuditSettings
from gateway_tap.middleware import AuditTapMiddleware
from log_api.access_log import TOKEN
from log_api.ports import Token
from schemas.errors import StartupError

_TOLD = (
    "x-actor-id",
    "x-actor-email",
    "x-actor-type",
    "x-actor-context",
    "x-actor-token-id",
    "x-actor-token-name",
    "x-account-id",
)


class AuditedReads(NamedTuple):
    """The application behind its tap, and what sends the captures that are left."""

    app: ASGIApp
    close: Callable[[], None]


def with_read_audit(app: ASGIApp, settings: ReadAuditSettings, state_dir: Path) -> AuditedReads:
    """Return `app` with every request captured; as it is where no collector is configured. `state_dir`: where the tap
    keeps its count. Raises StartupError.
    """
    if not settings.collector:
        return AuditedReads(app, lambda: None)
    try:
        tap = AuditTapMiddleware(
            _TellActor(app),
            collector=settings.collector,
            tap_id=settings.tap_id,
            token=_token(settings.token_file),
            queue_bytes_max=settings.queue_bytes_max,
            state_dir=state_dir,
            exclude_paths=("/healthz", "/readyz", "/metrics"),
        )
    except ValueError as error:
        raise StartupError(f"api.read_audit cannot be used: {error}.") from None
    return AuditedReads(_KeepActor(tap), tap.close)


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except OSError:
        raise StartupError(
            "api.read_audit.token_file cannot be read: correct the path or the file."
        ) from None


class _TellActor:
    """Says in the response's headers whose request it was, as the tap expects it of a gateway."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_actor(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _told(scope).items():
                    headers[name] = value
            await send(message)

        scope.setdefault("state", {})
        await self._app(scope, receive, send_with_actor)


class _KeepActor:
    """Takes these headers out again before the client sees them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_actor(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in _TOLD:
                    del headers[name]
            await send(message)

        await self._app(scope, receive, send_without_actor)


def _told(scope: Scope) -> dict[str, str]:
    token: Token | None = scope["state"].get(TOKEN)
    if token is None:
        return {}
    told = {
        "x-actor-id": token.id.hex,
        "x-actor-type": "user" if token.email else "account",
        "x-actor-context": "api_token",
        "x-actor-token-id": token.id.hex,
        "x-actor-token-name": token.name,
        "x-actor-email": token.email or "",
        "x-account-id": scope.get("path_params", {}).get("account_id", ""),
    }
    return {name: value for name, value in told.items() if value and value.isascii() and value.isprintable()}
