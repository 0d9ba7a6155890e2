"""Lookups over HTTP."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable
from urllib.parse import quote

import httpx

from enricher.circuit_breaker import CircuitBreaker
from enricher.config import HttpLookupConfig
from enricher.key_syntax import compile_key_check
from enricher.ports import NEVER_AN_ID, Absent, Found, Kind
from enricher.response import compile_response_reader
from schemas.errors import RetryableError
from schemas.retry_after import asked_to_wait_s

# Names are short: a longer response is not one of the kind that was configured.
RESPONSE_BYTES_MAX = 65_536
_ABSENT = Absent()
# Below the 5 s after which common servers close an idle connection, so that they do not close it under a request.
_IDLE_S_MAX = 2.0
_UNKNOWN_ID = frozenset({404, 410})


class HttpLookup:
    """`Lookup` over HTTP, with one service for each kind. Use it from one event loop, and stop it at the end.

    `new_breaker` returns a circuit breaker for a service, given its name for error messages and its kind.
    """

    def __init__(
        self,
        configs: Iterable[HttpLookupConfig],
        new_breaker: Callable[[str, Kind], CircuitBreaker] = lambda service, _kind: CircuitBreaker(service),
        response_bytes_max: int = RESPONSE_BYTES_MAX,
    ) -> None:
        # Once for all services, because it loads the certificate authorities.
        tls = httpx.create_ssl_context()
        self._services = {
            config.kind: _Service(config, tls, new_breaker, response_bytes_max) for config in configs
        }

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        """See `Lookup`. `kind` must be configured."""
        return await self._services[kind].look_up(key)

    async def stop(self) -> None:
        """Close the connections."""
        for service in self._services.values():
            await service.stop()


class _Service:
    def __init__(
        self,
        config: HttpLookupConfig,
        tls: ssl.SSLContext,
        new_breaker: Callable[[str, Kind], CircuitBreaker],
        response_bytes_max: int,
    ) -> None:
        self._name = f"the {config.kind} service"
        self._url_prefix, self._url_suffix = config.url.split("{key}")
        self._may_be_sent = compile_key_check(f"the {config.kind} lookup", config.key_syntax)
        self._breaker = new_breaker(self._name, config.kind)
        # With a content encoding, a small response could decompress into a large one.
        self._headers = {"accept": "application/json", "accept-encoding": "identity"} | {
            name.lower(): value for name, value in config.headers.items()
        }
        self._read_response = compile_response_reader(self._name, config.pointers, config.id_pointer)
        self._response_bytes_max = response_bytes_max
        self._timeout_s = config.timeout_ms / 1000
        self._slots = asyncio.Semaphore(config.concurrency_max)
        # The bare transport: httpx.AsyncClient would log every URL, keep cookies and use proxies of the environment.
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls,
            limits=httpx.Limits(
                max_connections=config.concurrency_max,
                max_keepalive_connections=config.concurrency_max,
                keepalive_expiry=_IDLE_S_MAX,
            ),
        )

    async def look_up(self, key: str) -> Found | Absent:
        if not self._may_be_sent(key):
            return NEVER_AN_ID
        # Before waiting for a slot, so that calls to a service that is down fail at once and queue for nothing.
        self._breaker.check()
        # No `/` is safe: a key must not add a step to the path.
        url = f"{self._url_prefix}{quote(key, safe='')}{self._url_suffix}"
        async with self._slots:
            body = await self._breaker.call(lambda: self._fetch(url))
        return _ABSENT if body is None else self._read_response(body, key)

    async def _fetch(self, url: str) -> bytes | None:
        """Return the body of the response, None if the service does not know the id. Raises RetryableError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._get(url)
        except TimeoutError:
            cause = "did not respond in time"
        except (httpx.TransportError, httpx.InvalidURL, OSError):
            cause = "cannot be reached"
        # Raised out here, because httpx's errors may hold the request, and so the key.
        raise RetryableError(f"{self._name} {cause}")

    async def _get(self, url: str) -> bytes | None:
        request = httpx.Request("GET", url, headers=self._headers)
        response = await self._transport.handle_async_request(request)
        try:
            if response.status_code in _UNKNOWN_ID:
                return None
            if response.status_code != 200:
                raise RetryableError(
                    f"{self._name} responded with status {response.status_code}",
                    asked_to_wait_s=asked_to_wait_s(response.status_code, response.headers, time.time()),
                )
            return await self._body(response)
        finally:
            await response.aclose()

    async def _body(self, response: httpx.Response) -> bytes:
        # Some services encode although they were asked not to.
        if response.headers.get("content-encoding", "identity") != "identity":
            raise RetryableError(f"{self._name} responded in an unsupported content encoding")
        body = bytearray()
        # Counted while reading: a content-length may be missing or wrong.
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._response_bytes_max:
                raise RetryableError(f"{self._name} responded with too many bytes")
        return bytes(body)

    async def stop(self) -> None:
        await self._transport.aclose()
