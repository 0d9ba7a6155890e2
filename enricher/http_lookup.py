"""Look-ups by HTTP."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from urllib.parse import quote

import httpx

from enricher.answer import compile_answer
from enricher.breaker import Breaker
from enricher.config import LookUpConfig
from enricher.keys import compile_keys
from enricher.ports import Absent, Found, Kind
from schemas.errors import RetryableError

_ABSENT = Absent()
# Below the 5 s after which common servers close an idle connection, perhaps in the face of a request.
_IDLE_S_MAX = 2.0
_UNKNOWN_TO_THE_SERVICE = frozenset({404, 410})


class HttpLookUp:
    """`LookUp` by HTTP, each kind at its own service. To be used by one event loop, and stopped at the end."""

    def __init__(
        self,
        configs: Iterable[LookUpConfig],
        breakers: Callable[[str, LookUpConfig], Breaker] = lambda who, config: Breaker(who, config.breaker),
    ) -> None:
        tls = httpx.create_ssl_context()
        self._services = {config.kind: _Service(config, tls, breakers) for config in configs}

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        """See `LookUp`. `kind` is one of those configured."""
        return await self._services[kind].look_up(key)

    async def stop(self) -> None:
        """Close the connections."""
        for service in self._services.values():
            await service.stop()


class _Service:
    """One kind's service."""

    def __init__(
        self, config: LookUpConfig, tls: ssl.SSLContext, breakers: Callable[[str, LookUpConfig], Breaker]
    ) -> None:
        self._who = f"the {config.kind} service"
        self._before, self._after = config.url.split("{key}")
        self._is_key = compile_keys(f"the {config.kind} look-up", config.key_syntax, config.key_chars_max)
        self._breaker = breakers(self._who, config)
        # An encoding would let a small answer unfold into a large one.
        self._headers = {"accept": "application/json", "accept-encoding": "identity"} | {
            name.lower(): value for name, value in config.headers.items()
        }
        self._read_answer = compile_answer(
            self._who, config.pointers, config.value_chars_max, config.id_pointer
        )
        self._answer_bytes_max = config.answer_bytes_max
        self._timeout_s = config.timeout_ms / 1000
        self._turns = asyncio.Semaphore(config.concurrency_max)
        # The bare transport: a client would log every URL, keep cookies and follow proxies of the environment.
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls,
            limits=httpx.Limits(
                max_connections=config.concurrency_max,
                max_keepalive_connections=config.concurrency_max,
                keepalive_expiry=_IDLE_S_MAX,
            ),
        )

    async def look_up(self, key: str) -> Found | Absent:
        if not self._is_key(key):
            return _ABSENT
        self._breaker.check()
        url = f"{self._before}{quote(key, safe='')}{self._after}"
        async with self._turns:
            body = await self._breaker.call(lambda: self._exchange(url))
        return _ABSENT if body is None else self._read_answer(body, key)

    async def _exchange(self, url: str) -> bytes | None:
        """Return the body of the answer, None where the service does not know the key. Raises RetryableError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._get(url)
        except TimeoutError:
            trouble = "did not answer in time"
        except (httpx.TransportError, httpx.InvalidURL, OSError):
            trouble = "cannot be reached"
        raise RetryableError(f"{self._who} {trouble}")

    async def _get(self, url: str) -> bytes | None:
        request = httpx.Request("GET", url, headers=self._headers)
        response = await self._transport.handle_async_request(request)
        try:
            if response.status_code in _UNKNOWN_TO_THE_SERVICE:
                return None
            if response.status_code != 200:
                raise RetryableError(f"{self._who} answered with status {response.status_code}")
            return await self._body(response)
        finally:
            await response.aclose()

    async def _body(self, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise RetryableError(f"{self._who} answered in an encoding not asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._answer_bytes_max:
                raise RetryableError(f"{self._who} answered with too much")
        return bytes(body)

    async def stop(self) -> None:
        await self._transport.aclose()
