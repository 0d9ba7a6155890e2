"""The public keys of issuers: fetched, refreshed and kept, so that tokens can be verified without waiting."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import httpx
import structlog

from redactor.identity.signing_keys import JWKS_BYTES_MAX, SigningKeys, UnusableKeySet, read_jwks
from redactor.identity.tokens import UnknownKey
from redactor.issuer_config import IssuerConfig
from schemas.errors import StartupError
from schemas.metric_defs import Metrics

log = structlog.get_logger("signing_keys")

# Issuers publish a new key long before they sign with it: hours to days.
_REFRESH_MS = 300_000
_RETRY_MS = 15_000
# An unknown key may be made up by a forger, so few are asked for within this time. More than one, so that a made-up key does not
# delay the issuer's next one.
_UNKNOWN_KEYS_MAX = 3
_ASKED_WITHIN_MS = 30_000
# A batch of captures waits for a fetch.
_TIMEOUT_MS = 3_000
_LOOK_MS = 5_000
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}


def _monotonic_ms() -> int:
    # Not the time of day: if it is set, keys would become stale, or not be fetched.
    return time.monotonic_ns() // 1_000_000


class KeysNotFetched(Exception):
    """An issuer's keys cannot be fetched. The message holds nothing of what was received."""


async def fetch_jwks(issuer: IssuerConfig, transport: httpx.AsyncBaseTransport) -> bytes:
    """Return the text of an issuer's JWKS, from its file or its URL. Raises KeysNotFetched.

    Redirects are not followed, and no proxy of the environment is used: whoever answers decides whose tokens are genuine.
    """
    if issuer.jwks_file is not None:
        return await asyncio.to_thread(_read_file, issuer.jwks_file)
    try:
        async with asyncio.timeout(_TIMEOUT_MS / 1000):
            return await _get(issuer.jwks_url, transport)
    except TimeoutError:
        cause = "no response in time"
    except (httpx.TransportError, httpx.InvalidURL, OSError) as error:
        cause = f"cannot be reached ({type(error).__name__})"
    raise KeysNotFetched(cause)


async def _get(url: str, transport: httpx.AsyncBaseTransport) -> bytes:
    response = await transport.handle_async_request(httpx.Request("GET", url, headers=_HEADERS))
    try:
        if response.status_code != 200:
            raise KeysNotFetched(f"status {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise KeysNotFetched("an unsupported content encoding")
        body = bytearray()
        # Counted while reading: a content-length may be missing or wrong.
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > JWKS_BYTES_MAX:
                raise KeysNotFetched("too many bytes")
        return bytes(body)
    finally:
        await response.aclose()


def _read_file(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise KeysNotFetched("it is no regular file, which can be read again")
            text = file.read(JWKS_BYTES_MAX + 1)
    except OSError as error:
        raise KeysNotFetched(f"the file cannot be read ({error.strerror})") from None
    if len(text) > JWKS_BYTES_MAX:
        raise KeysNotFetched("too many bytes")
    return text


def _open_at_once(path: str, flags: int) -> int:
    # Opening a FIFO would otherwise wait for somebody who writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


class SigningKeyFetcher:
    """Keeps `keys` as the issuers publish them. What was fetched stays in use while fetching fails, for a day at most."""

    def __init__(
        self,
        issuers: Sequence[IssuerConfig],
        keys: SigningKeys,
        metrics: Metrics,
        now_ms: Callable[[], int] = _monotonic_ms,
    ) -> None:
        self._issuers = {each.issuer: each for each in issuers}
        self._keys = keys
        self._metrics = metrics
        self._now_ms = now_ms
        # Of each issuer, when it was asked for unknown keys lately, and when it is asked next anyway.
        self._asked_ms: dict[str, dict[str, int]] = {}
        self._due_ms = dict.fromkeys(self._issuers, 0)
        self._failed: set[str] = set()
        self._fetching: dict[str, asyncio.Task[None]] = {}
        # The bare transport: httpx.AsyncClient would log URLs, follow redirects and use proxies of the environment.
        self._transport = httpx.AsyncHTTPTransport()

    @property
    def stale(self) -> bool:
        """Whether the keys of an issuer could not be fetched when they last should have been."""
        return bool(self._failed)

    def check_files(self) -> None:
        """Read the keys that are in files. Raises StartupError where one of them cannot be used."""
        for issuer in self._issuers.values():
            if issuer.jwks_file is None:
                continue
            try:
                found = read_jwks(_read_file(issuer.jwks_file))
            except (KeysNotFetched, UnusableKeySet) as error:
                cause = str(error)
            else:
                self._keys.replace(issuer.issuer, found, self._now_ms())
                continue
            raise StartupError(
                f"The keys of the issuer {issuer.issuer} cannot be used: {cause}. Correct redaction.issuers[].jwks_file."
            )

    async def fetch(self, issuers: Collection[str] | None = None) -> None:
        """Fetch the keys of these issuers now; by default of all. Never raises; at most one fetch of each runs at a time."""
        names = self._issuers if issuers is None else issuers
        await asyncio.gather(*(asyncio.shield(self._task(name)) for name in names))

    async def fetch_unknown(self, unknown: Collection[UnknownKey]) -> None:
        """Fetch the keys of issuers of which tokens name unknown ones, unless that was done lately."""
        wanted = {each.issuer for each in unknown if each.issuer in self._fetching or self._may_ask(each)}
        if wanted:
            await self.fetch(wanted)

    def _may_ask(self, unknown: UnknownKey) -> bool:
        """Whether the issuer is to be asked for this key now; it is then noted as asked for."""
        now_ms = self._now_ms()
        asked = self._asked_ms.setdefault(unknown.issuer, {})
        lapsed = [kid for kid, at_ms in asked.items() if now_ms - at_ms >= _ASKED_WITHIN_MS]
        for kid in lapsed:
            del asked[kid]
        if unknown.kid in asked or len(asked) >= _UNKNOWN_KEYS_MAX:
            return False
        asked[unknown.kid] = now_ms
        return True

    async def run(self) -> None:
        """Fetch all keys when they are due, until cancelled."""
        while True:
            now_ms = self._now_ms()
            await self.fetch([name for name, due_ms in self._due_ms.items() if now_ms >= due_ms])
            self._keys.expire(self._now_ms())
            await asyncio.sleep(_LOOK_MS / 1000)

    async def stop(self) -> None:
        """Cancel the fetches that still run, and close the connections."""
        for task in list(self._fetching.values()):
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)
        await self._transport.aclose()

    def _task(self, name: str) -> asyncio.Task[None]:
        task = self._fetching.get(name)
        if task is None:
            task = self._fetching[name] = asyncio.create_task(self._fetch(self._issuers[name]))
            task.add_done_callback(lambda _: self._fetching.pop(name, None))
        return task

    async def _fetch(self, issuer: IssuerConfig) -> None:
        try:
            found = read_jwks(await fetch_jwks(issuer, self._transport))
        except (KeysNotFetched, UnusableKeySet) as error:
            self._note_failure(issuer.issuer, str(error))
        except Exception as error:  # noqa: BLE001  whatever is wrong with a response, the keys before stay in use
            self._note_failure(issuer.issuer, type(error).__name__)
        else:
            self._keys.replace(issuer.issuer, found, self._now_ms())
            self._failed.discard(issuer.issuer)
            self._due_ms[issuer.issuer] = self._now_ms() + _REFRESH_MS
            self._metrics.signing_key_fetches.labels("fetched").inc()
            self._metrics.signing_keys_stale.set(len(self._failed))

    def _note_failure(self, issuer: str, cause: str) -> None:
        # Once for each failure in a row: it is retried every few seconds.
        if issuer not in self._failed:
            log.warning("signing_keys_not_fetched", issuer=issuer, cause=cause)
        self._failed.add(issuer)
        self._due_ms[issuer] = self._now_ms() + _RETRY_MS
        self._metrics.signing_key_fetches.labels("failed").inc()
        self._metrics.signing_keys_stale.set(len(self._failed))
