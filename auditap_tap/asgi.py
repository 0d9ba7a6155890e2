"""The ASGI middleware: the wiring of a tap into an application."""

from __future__ import annotations

import asyncio

from .exchange import (
    UNSEEN_BODIES,
    ASGIApp,
    Exchange,
    Receive,
    Scope,
    Send,
    keep_iterators_of,
)
from .lifespan import Lifespan
from .middleware import TapMiddleware


class AuditTapMiddleware(TapMiddleware[ASGIApp]):
    """ASGI middleware that taps HTTP requests. WebSockets and lifespan pass through; where the application leaves lifespan
    unanswered, the middleware answers. `TapMiddleware` describes the settings.

    The tap starts with the server, at the lifespan scope. Where the server sends none, it starts with the first request, or
    with `start`.

    A body that the application left unread is marked `not_read`, unless the server still gives it, within a second, once the
    response is complete. A client that disconnects is noticed if the application listens for it, or if the server lets `send`
    fail.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope, as ASGI defines it."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        exchange = None
        if scope["type"] == "http":
            # Not swallowed: reading these iterators raises the same for the application, and what was read of them is
            # gone.
            keep_iterators_of(scope)
            exchange = self._begin(scope, receive, send)
        if exchange is None:
            await self._app(scope, receive, send)
            return
        try:
            await self._app(_without_unseen_bodies(scope), exchange.receive, exchange.send)
            await exchange.read_on()
        finally:
            exchange.end()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Before the application, which may not support lifespan and raise. Servers go on without it.
        self.start()
        await Lifespan(receive, send, self._close_in_thread).run(self._app, scope)

    async def _close_in_thread(self) -> None:
        try:
            await asyncio.to_thread(self.close)
        except Exception:  # noqa: BLE001  # no asyncio, or no thread to be had; here it is bounded too
            self.close()

    def _begin(self, scope: Scope, receive: Receive, send: Send) -> Exchange | None:
        """Return what observes this request; None if it is not tapped."""
        try:
            path: str = scope["path"]
            if self._is_excluded(path):
                return None
            return Exchange(self._current_run(), scope, receive, send)
        except Exception:  # noqa: BLE001  # the user's request goes on without the tap
            self._count_failed()
            return None


def _without_unseen_bodies(scope: Scope) -> Scope:
    """Return the scope itself, which outer layers may share, unless it offers extensions that hide bodies."""
    extensions = scope.get("extensions")
    if not extensions or UNSEEN_BODIES.isdisjoint(extensions):
        return scope
    seen = {name: value for name, value in extensions.items() if name not in UNSEEN_BODIES}
    return {**scope, "extensions": seen}
