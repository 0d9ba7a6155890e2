"""The service that names ids, having a bad day."""

from __future__ import annotations

import asyncio
import itertools

from starlette.requests import Request
from starlette.responses import Response

from tests.e2e.pipeline import Directory

_SLOW_S = 1.0
# Each is an answer with status 200 that must name nothing.
_LIES = (
    b"<html>all is well</html>",
    b'{"result": {"name": {"first": "LIE"}, "email": ["LIE"]}}',
    b'{"result": "LIE"}',
    b'{"result": {"name": "' + b"LIE" * 40_000 + b'"}}',
    b'{"result": {"name": "LI',
    b'{"result": {"name": "LIE' + b"x" * 600 + b'", "email": "LIE' + b"x" * 600 + b'"}}',
    b"\xff\xfe{}",
)


class FaultyDirectory(Directory):
    """`mode`: well, hung (answers nobody), failing (503), slow (a second each), lying (200, and nonsense)."""

    def __init__(self) -> None:
        super().__init__()
        self._mode = "well"
        self._lies = itertools.cycle(_LIES)
        self._changed = asyncio.Event()

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()

    async def _answer(self, request: Request) -> Response:
        if self._mode == "hung":
            await self._changed.wait()
        elif self._mode == "failing":
            return Response(status_code=503)
        elif self._mode == "slow":
            await asyncio.sleep(_SLOW_S)
        elif self._mode == "lying":
            return Response(next(self._lies), media_type="application/json")
        return await super()._answer(request)
