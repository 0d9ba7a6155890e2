"""What segments of a path stand for.

An account's id may hold an encoded slash (`arn:aws:iam::1:user%2Fana`), which ASGI servers decode too early.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

ALL_ACCOUNTS: Final = "-"
"""Stands in the place of an account for all accounts of the token."""
# No id holds a control character, and routes match it as part of a segment.
_STAND_IN = "\x1f"


class EncodedSlashes:
    """ASGI middleware: routes see a path whose encoded slashes separate nothing. `path_values` gives them back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path = scope.get("raw_path") if scope["type"] == "http" else None
        if raw_path and b"%2f" in raw_path.lower():
            segments = (unquote(each) for each in raw_path.decode("latin-1").split("/"))
            scope = {**scope, "path": "/".join(each.replace("/", _STAND_IN) for each in segments)}
        await self._app(scope, receive, send)


def path_values(params: Mapping[str, str]) -> dict[str, str]:
    """Return a route's path parameters as the client means them."""
    return {name: value.replace(_STAND_IN, "/") for name, value in params.items()}
