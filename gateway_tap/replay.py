"""Replay: sends the captures of a file to a collector, as a tap would. Import does so with files of other tools."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import httpx
import msgspec

from gateway_tap.capture_file import Line, read_lines
from gateway_tap.formats.port import NoPair
from gateway_tap.traffic_file import read_captures
from schemas.errors import NotDurable, RefusalReason, RefusedCapture, StartupError
from schemas.retry_after import asked_to_wait_s
from schemas.urls import has_unencoded_login

_RETRY_DELAY_S: Final = 0.2
_RETRY_DELAY_S_MAX: Final = 5.0
_ASKED_WAIT_S_MAX: Final = 60.0
_RETRIED_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})
_NONE_GIVEN: Final = "the collector requires a token over TCP, and none was given: name the file that holds one with --token-file"
_ERROR_SENTENCES: Final = {
    401: "the collector refuses the token: use one that it knows",
    404: "there is no collector at this address",
    413: "a batch is over the collector's limits: send fewer captures a batch",
}


@dataclass(frozen=True)
class ReplayLimits:
    """How a file is split into batches, and for how long one of them is retried."""

    batch_pairs_max: int = 100
    batch_bytes_max: int = 4 * 1024 * 1024
    line_bytes_max: int = 4 * 1024 * 1024
    refusals_listed_max: int = 1_000
    timeout_ms: int = 30_000
    retry_ms_max: int = 60_000


class RefusedLine(NamedTuple):
    """A line that was refused. `line` is its number in the file, from 1; `path` is a schema path."""

    line: int
    reason: str
    path: str


@dataclass
class ReplayReport:
    """What became of the lines so far. `refusals` lists the first of the `refused`; `retried` counts retries of batches."""

    accepted: int = 0
    refused: int = 0
    refusals: list[RefusedLine] = field(default_factory=list)
    batches: int = 0
    retried: int = 0
    unknown_fields: int = 0
    """Captures with unknown fields."""
    unknown_fields_line: int | None = None
    """The line of the first of them."""
    unrepeatable: int = 0
    """Captures that become new records if they are sent again."""
    unrepeatable_line: int | None = None
    """The line of the first of them."""
    skipped: int = 0
    """Entries of a file of another tool that hold no complete HTTP pair."""


class _Refused(msgspec.Struct):
    index: int
    reason: str
    path: str = ""


class _Counted(msgspec.Struct):
    captures: int
    first_index: int


class _Success(msgspec.Struct):
    accepted: int
    refused: list[_Refused] = []
    unknown_fields: _Counted | None = None
    unrepeatable: _Counted | None = None


_success_decoder = msgspec.json.Decoder(_Success)


async def replay(
    source: Path | BinaryIO,
    collector: str,
    *,
    token: str | None = None,
    plain_http_allowed: bool = False,
    limits: ReplayLimits | None = None,
    on_progress: Callable[[ReplayReport], None] | None = None,
    pause: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> ReplayReport:
    """Send the captures in `source`, NDJSON or a JSON array, gzipped or not, and return the report.

    `collector`: `unix:/path/collector.sock`, `http://127.0.0.1:8400` (loopback only, unless `plain_http_allowed`) or
    `https://host:port`. NDJSON is read as it is sent, a batch at a time; `on_progress` is called after each. A batch that is not
    accepted is retried, with pauses (`pause`, in seconds) of `retry_ms_max` in all. Captures with ids, or with times and tap
    positions, are recorded once all the same.

    Raises StartupError if the file cannot be read or the collector rejects what is sent; it says how many were accepted
    before. Raises NotDurable, naming the line to begin with again, if the collector stays unavailable.
    """
    limits = limits or ReplayLimits()
    destination = Destination(collector, token, plain_http_allowed)
    return await _send(
        lambda _: read_lines(source, limits.line_bytes_max), destination, limits, on_progress, pause
    )


async def import_file(
    source: Path | BinaryIO,
    collector: str,
    *,
    token: str | None = None,
    plain_http_allowed: bool = False,
    limits: ReplayLimits | None = None,
    on_progress: Callable[[ReplayReport], None] | None = None,
    pause: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> ReplayReport:
    """Send the pairs in `source`, a HAR file or mitmproxy's flows, as `replay` sends captures, and return the report.

    Its lines are the numbers of entries or flows. Sent again, nothing becomes a second record.
    """
    limits = limits or ReplayLimits()
    destination = Destination(collector, token, plain_http_allowed)

    def lines(sender: _Sender) -> Iterator[Line]:
        return read_captures(source, limits.line_bytes_max, sender.refuse_entry)

    return await _send(lines, destination, limits, on_progress, pause)


class Destination(NamedTuple):
    """A collector, and what it takes to send to it. The repr does not show the token."""

    collector: str
    token: str | None
    plain_http_allowed: bool

    def __repr__(self) -> str:
        return "<Destination>"


async def _send(
    read: Callable[[_Sender], Iterator[Line]],
    destination: Destination,
    limits: ReplayLimits,
    on_progress: Callable[[ReplayReport], None] | None,
    pause: Callable[[float], Awaitable[Any]],
) -> ReplayReport:
    """Send the lines that `read` returns."""
    report = ReplayReport()
    async with _client(destination, limits) as client:
        sender = _Sender(client, limits, report, pause)
        try:
            with closing(_batches(read(sender), limits, sender)) as batches:
                for batch in batches:
                    await sender.send(batch)
                    if on_progress is not None:
                        on_progress(report)
        except StartupError as reason:
            if report.accepted == 0:
                raise
            raise StartupError(f"{reason}; captures accepted before: {report.accepted}") from None
    return report


def _client(destination: Destination, limits: ReplayLimits) -> httpx.AsyncClient:
    collector, token, plain_http_allowed = destination
    headers = {"Content-Type": "application/x-ndjson"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    timeout_s = limits.timeout_ms / 1000
    if collector.startswith("unix:"):
        path = collector.removeprefix("unix:")
        if not Path(path).exists():
            raise StartupError(
                f"there is no collector at {collector}: start one, or name the place where it listens"
            )
        # With a transport of its own, httpx uses no proxy from the environment.
        transport = httpx.AsyncHTTPTransport(uds=path)
        return httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers, timeout=timeout_s
        )
    _refuse_wrong_address(collector, plain_http_allowed=plain_http_allowed)
    # No proxy from the environment may see captures, which are not redacted yet.
    return httpx.AsyncClient(base_url=collector, headers=headers, timeout=timeout_s, trust_env=False)


def _refuse_wrong_address(collector: str, *, plain_http_allowed: bool) -> None:
    try:
        url = httpx.URL(collector)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or has_unencoded_login(collector):
        raise StartupError(
            "the collector must be unix:/path/of/socket, http://127.0.0.1:8400 or https://host:port"
        )
    if url.scheme == "http" and not (plain_http_allowed or _is_loopback(url.host)):
        raise StartupError(
            "the collector must be https unless it is on loopback, because captures are not redacted yet; where a mesh"
            " encrypts, set plain_http_allowed"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _batches(lines: Iterator[Line], limits: ReplayLimits, sender: _Sender) -> Generator[list[Line]]:
    """Yield batches of lines. A line over the limit is counted as refused, and not sent."""
    batch: list[Line] = []
    batch_bytes = 0
    for line in lines:
        if len(line.text) > limits.line_bytes_max:
            sender.refuse(line.number, RefusalReason.TOO_LARGE, "")
            continue
        if batch and batch_bytes + len(line.text) > limits.batch_bytes_max:
            yield batch
            batch, batch_bytes = [], 0
        batch.append(line)
        batch_bytes += len(line.text) + 1
        if len(batch) == limits.batch_pairs_max:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


class _Sender:
    """Sends batches and keeps the report."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        limits: ReplayLimits,
        report: ReplayReport,
        pause: Callable[[float], Awaitable[Any]],
    ) -> None:
        self._client = client
        self._limits = limits
        self._report = report
        self._pause = pause

    async def send(self, batch: list[Line]) -> None:
        """Send one batch until it is accepted, and add the response to the report. Raises StartupError or NotDurable."""
        response = await self._post_until_accepted(b"\n".join(line.text for line in batch), batch[0].number)
        try:
            success = _success_decoder.decode(response.content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise StartupError("what responds at this address is not a collector") from None
        self._report.batches += 1
        self._report.accepted += success.accepted
        for refused in success.refused:
            # Whatever responds at this address may name lines that there are not.
            if 0 <= refused.index < len(batch):
                self.refuse(batch[refused.index].number, refused.reason, refused.path)
        report = self._report
        if found := _first_line(success.unknown_fields, batch):
            report.unknown_fields += found.captures
            report.unknown_fields_line = report.unknown_fields_line or found.line
        if found := _first_line(success.unrepeatable, batch):
            report.unrepeatable += found.captures
            report.unrepeatable_line = report.unrepeatable_line or found.line

    def refuse(self, line: int, reason: str, path: str) -> None:
        self._report.refused += 1
        if len(self._report.refusals) < self._limits.refusals_listed_max:
            self._report.refusals.append(RefusedLine(line, reason, path))

    def refuse_entry(self, number: int, refused: RefusedCapture) -> None:
        if isinstance(refused, NoPair):
            self._report.skipped += 1
        else:
            self.refuse(number, refused.reason, refused.path)

    async def _post_until_accepted(self, body: bytes, first_line: int) -> httpx.Response:
        """Return the response with status 200. Raises StartupError or NotDurable."""
        left_s = self._limits.retry_ms_max / 1000
        delay_s = _RETRY_DELAY_S
        while True:
            response = await self._post(body)
            if response is not None and response.status_code not in _RETRIED_STATUS:
                return self._checked(response)
            wait_s = min(delay_s, _RETRY_DELAY_S_MAX)
            if wait_s > left_s:
                raise NotDurable(
                    f"the collector does not respond, or cannot make captures durable: nothing from line {first_line} on"
                    " was accepted; send the rest when it is available again"
                )
            # A collector that asks for longer than there is time gets the batch once more at the end of it.
            wait_s = max(wait_s, min(_asked_to_wait_s(response), _ASKED_WAIT_S_MAX, left_s))
            await self._pause(wait_s)
            left_s -= wait_s
            delay_s *= 2
            self._report.retried += 1

    def _checked(self, response: httpx.Response) -> httpx.Response:
        """Return a response with status 200. Raises StartupError for any other, because a retry would not help."""
        status = response.status_code
        if status == 200:
            return response
        if status == 401 and "authorization" not in self._client.headers:
            raise StartupError(_NONE_GIVEN)
        raise StartupError(_ERROR_SENTENCES.get(status, f"the collector responds with status {status}"))

    async def _post(self, body: bytes) -> httpx.Response | None:
        try:
            return await self._client.post("/v1/captures", content=body)
        except httpx.TransportError:
            return None


class _Found(NamedTuple):
    captures: int
    line: int


def _first_line(counted: _Counted | None, batch: list[Line]) -> _Found | None:
    # Whatever responds at this address may name lines that there are not.
    if counted is None or not 0 <= counted.first_index < len(batch):
        return None
    return _Found(counted.captures, batch[counted.first_index].number)


def _asked_to_wait_s(response: httpx.Response | None) -> float:
    if response is None:
        return 0.0
    return asked_to_wait_s(response.status_code, response.headers, time.time()) or 0.0
