"""The lifespan scope: how the tap learns that its server ends, whatever the application does with the scope."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from .exchange import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger("auditap.tap")
# A server whose application failed to start ends, too.
_OF_THE_END: Final = frozenset(
    {"lifespan.startup.failed", "lifespan.shutdown", "lifespan.shutdown.complete", "lifespan.shutdown.failed"}
)


class Lifespan:
    """One lifespan scope. `close` is awaited once the server ends, before the application's last message is sent.

    uvicorn kills its own process once it has ended, so an exit handler does not run. Only this scope tells of the end in time,
    so what the application leaves unanswered is answered here.
    """

    def __init__(self, receive: Receive, send: Send, close: Callable[[], Awaitable[None]]) -> None:
        self._receive = receive
        self._send = send
        self._close = close
        self._seen: set[str] = set()

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Serve the scope until the server ends. Raises what the application raises, if the server may heed it."""
        try:
            await app(scope, self._receive_noted, self._send_noted)
        except Exception as error:
            if self._ending:
                await self._close()
                raise
            if not _serves_without_lifespan(self._receive):
                raise
            _log.info("the application does not support lifespan (%s)", type(error).__name__)
        # What a server cannot take any more, it does not wait for.
        with contextlib.suppress(Exception):
            await self._answer_the_rest()

    @property
    def _ending(self) -> bool:
        return not self._seen.isdisjoint(_OF_THE_END)

    async def _receive_noted(self) -> Message:
        message = await self._receive()
        self._seen.add(message["type"])
        return message

    async def _send_noted(self, message: Message) -> None:
        self._seen.add(message["type"])
        if self._ending:
            await self._close()
        await self._send(message)

    async def _answer_the_rest(self) -> None:
        for phase in ("lifespan.startup", "lifespan.shutdown"):
            if f"{phase}.failed" in self._seen:
                return
            if phase not in self._seen:
                await self._receive_noted()
            if f"{phase}.complete" not in self._seen:
                await self._send_noted({"type": f"{phase}.complete"})


def _serves_without_lifespan(receive: Receive) -> bool:
    """Whether the server is known to go on if the application raises: uvicorn with `--lifespan auto`, its default.

    With `--lifespan on` it ends, and other servers have rules of their own: there the exception is theirs.
    """
    # The scope does not tell. uvicorn's `receive` is a method of an object that has the server's configuration.
    config = getattr(getattr(receive, "__self__", None), "config", None)
    return getattr(config, "lifespan", None) == "auto"
