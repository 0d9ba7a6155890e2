"""Lookups for tests: a fake in memory, and an HTTP service on loopback for the real lookup."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from enricher.ports import NEVER_AN_ID, Absent, Found, Kind, is_valid_key
from schemas.errors import RetryableError

Behaviour = Callable[[Request], Awaitable[Response]]


class FakeLookup:
    """A `Lookup` in memory that counts its calls.

    `failing` kinds raise RetryableError; while `gate` is closed, every lookup waits.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[Kind, str], Found] = {}
        self.failing: set[Kind] = set()
        self.lookups: Counter[tuple[Kind, str]] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        if not is_valid_key(key):
            return NEVER_AN_ID
        self.lookups[kind, key] += 1
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        await asyncio.sleep(0)
        if kind in self.failing:
            raise RetryableError(f"the {kind} service cannot be reached")
        return self.answers.get((kind, key), Absent())

    async def until_waiting(self, count: int) -> None:
        """Return once so many lookups wait for the gate."""
        async with asyncio.timeout(120):
            while self.waiting < count:
                await asyncio.sleep(0)


class NameService:
    """An HTTP service; `GET /{kind}/{key}` responds in the shape of the v4 API.

    `behaviour`, if set, responds instead. `requests` holds the requests received.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[Kind, str], Found] = {}
        self.behaviour: Behaviour | None = None
        self.requests: list[Request] = []
        self.under_way = 0
        self.under_way_max = 0
        self.address = ""

    @property
    def asked(self) -> Counter[str]:
        return Counter(request.url.path for request in self.requests)

    async def handle(self, request: Request) -> Response:
        self.requests.append(request)
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            return await (self.behaviour or self._answer)(request)
        finally:
            self.under_way -= 1

    async def _answer(self, request: Request) -> Response:
        found = self.answers.get((Kind(request.path_params["kind"]), request.path_params["key"]))
        if found is None:
            return JSONResponse({"success": False, "errors": [{"code": 7003}], "result": None}, 404)
        account = {"id": found.account_id, "name": found.account_name}
        result = {"name": found.name, "email": found.email, "account": account}
        return JSONResponse({"success": True, "result": result})


@asynccontextmanager
async def running(service: NameService) -> AsyncIterator[NameService]:
    """Serve on a free loopback port; `service.address` is its URL."""
    # Named as TCP, because asyncio turns Nagle's delay off for such sockets alone.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    service.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = Starlette(routes=[Route("/{kind}/{key:path}", service.handle)])
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield service  # the socket listens already, so early connections wait
    finally:
        server.should_exit = True
        await task
        listener.close()


class _Server(uvicorn.Server):
    """A server that installs no signal handlers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
