"""Ends the work for a client that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

_T = TypeVar("_T")


class ClientDisconnectedError(Exception):
    """The client closed its connection before the response began."""


async def unless_disconnected(request: Request, work: Awaitable[_T]) -> _T:
    """Return the result of `work`. If the client closes its connection first, cancel the work and raise ClientDisconnectedError.

    A server goes on otherwise: a client that gives up and asks again would have ever more queries running.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnectedError
        return await working
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
