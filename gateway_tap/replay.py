"""Replay: send the captures of a file to a collector, as a tap would."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import zlib
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import httpx
import msgspec

from schemas.errors import NotDurable, RefusalReason, StartupError

_GZIP_MAGIC: Final = b"\x1f\x8b"
_LINE_SPACE: Final = b" \t\r\n"
_CHUNK_BYTES: Final = 64 * 1024
_RETRY_DELAY_S: Final = 0.2
_RETRY_DELAY_S_MAX: Final = 5.0
_RETRIED_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})
_SENTENCES: Final = {
    401: "the collector refuses the token: give one that it knows",
    404: "there is no collector at this address",
    413: "a batch is over the collector's limits: send fewer captures a batch",
}


@dataclass(frozen=True)
class ReplayLimits:
    """How a file is cut into batches, and how long one of them is tried."""

    batch_pairs_max: int = 100
    batch_bytes_max: int = 4 * 1024 * 1024
    line_bytes_max: int = 4 * 1024 * 1024
    refusals_listed_max: int = 1_000
    timeout_ms: int = 30_000
    retry_ms_max: int = 60_000


class RefusedLine(NamedTuple):
    """A line that was not taken; `line` counts the file's lines from 1."""

    line: int
    reason: str
    path: str


@dataclass
class ReplayReport:
    """What became of the lines so far. `refusals` lists the first of the `refused`; `retried` counts how often a
    batch was sent again.
    """

    accepted: int = 0
    refused: int = 0
    refusals: list[RefusedLine] = field(default_factory=list)
    batches: int = 0
    retried: int = 0
    unknown_fields: int = 0
    """Captures with fields that no capture has."""
    unknown_fields_line: int | None = None
    """The first of them."""


class _Line(NamedTuple):
    number: int
    text: bytes

    def __repr__(self) -> str:
        return f"_Line({self.number})"


class _Refused(msgspec.Struct):
    index: int
    reason: str
    path: str = ""


class _UnknownFields(msgspec.Struct):
    captures: int
    first_index: int


class _Answer(msgspec.Struct):
    accepted: int
    refused: list[_Refused] = []
    unknown_fields: _UnknownFields | None = None


_answer_decoder = msgspec.json.Decoder(_Answer)


async def replay(
    source: Path | BinaryIO,
    collector: str,
    *,
    token: str | None = None,
    limits: ReplayLimits | None = None,
    on_progress: Callable[[ReplayReport], None] | None = None,
    pause: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> ReplayReport:
    """Send the NDJSON of `source`, gzipped or not, and return the report.

    `collector`: `unix:/path/collector.sock`, `http://127.0.0.1:8400` (loopback only) or `https://host:port`. The file
    is read as it is sent, a batch at a time; `on_progress` is called after each. A batch that is not taken is sent
    again, waiting (`pause`, in seconds) `retry_ms_max` in all; that records nothing twice of what has ids, or tap
    positions and times of capture.

    Raises StartupError where the file cannot be read or the collector will not take this; NotDurable, naming the
    line to begin with again, where the collector stays away.
    """
    limits = limits or ReplayLimits()
    report = ReplayReport()
    async with _client(collector, token, limits) as client:
        sender = _Sender(client, limits, report, pause)
        with closing(_batches(source, limits, sender)) as batches:
            for batch in batches:
                await sender.send(batch)
                if on_progress is not None:
                    on_progress(report)
    return report


def _client(collector: str, token: str | None, limits: ReplayLimits) -> httpx.AsyncClient:
    headers = {"Content-Type": "application/x-ndjson"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    timeout_s = limits.timeout_ms / 1000
    if collector.startswith("unix:"):
        path = collector.removeprefix("unix:")
        if not Path(path).exists():
            raise StartupError(f"there is no collector at {collector}: start one, or name where it listens")
        transport = httpx.AsyncHTTPTransport(uds=path)
        return httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers, timeout=timeout_s
        )
    _refuse_wrong_address(collector)
    # No proxy of the environment gets to see what is not redacted yet.
    return httpx.AsyncClient(base_url=collector, headers=headers, timeout=timeout_s, trust_env=False)


def _refuse_wrong_address(collector: str) -> None:
    try:
        url = httpx.URL(collector)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise StartupError(
            "the collector must be unix:/path/of/socket, http://127.0.0.1:8400 or https://host:port"
        )
    if url.scheme == "http" and not _is_loopback(url.host):
        raise StartupError(
            "the collector must be https unless it is on loopback: captures are not redacted yet"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _batches(source: Path | BinaryIO, limits: ReplayLimits, sender: _Sender) -> Generator[list[_Line]]:
    """Yield batches of lines that are not blank; lines over the limit are refused to `sender` instead."""
    batch: list[_Line] = []
    batch_bytes = 0
    for line in _lines(source, limits.line_bytes_max):
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


def _lines(source: Path | BinaryIO, line_bytes_max: int) -> Iterator[_Line]:
    """Yield the lines that are not blank; of one that is too long, enough to see that it is."""
    number = 0
    try:
        with _open(source) as opened:
            while text := opened.readline(line_bytes_max + 2):
                number += 1
                _skip_rest_of_line(opened, text)
                if stripped := text.strip(_LINE_SPACE):
                    yield _Line(number, stripped)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise StartupError(f"{_name(source)} is damaged after line {number}") from None
    except OSError as failure:
        raise StartupError(f"cannot read {_name(source)}: {failure.strerror}") from None


@contextmanager
def _open(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        opened = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        buffered = BufferedReader(cast("RawIOBase", opened))
        # Whoever opened it closes it.
        stack.callback(buffered.detach)
        if buffered.peek(2).startswith(_GZIP_MAGIC):
            yield cast("BinaryIO", stack.enter_context(gzip.GzipFile(fileobj=buffered)))
        else:
            yield buffered


def _skip_rest_of_line(opened: BinaryIO, text: bytes) -> None:
    while text and not text.endswith(b"\n"):
        text = opened.readline(_CHUNK_BYTES)


def _name(source: Path | BinaryIO) -> str:
    return str(source) if isinstance(source, Path) else "the input"


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

    async def send(self, batch: list[_Line]) -> None:
        """Send one batch until it is taken; raises StartupError or NotDurable."""
        response = await self._taken(b"\n".join(line.text for line in batch), batch[0].number)
        try:
            answer = _answer_decoder.decode(response.content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise StartupError("what answers at this address is no collector") from None
        self._report.batches += 1
        self._report.accepted += answer.accepted
        for refused in answer.refused:
            if 0 <= refused.index < len(batch):
                self.refuse(batch[refused.index].number, refused.reason, refused.path)
        unknown = answer.unknown_fields
        if unknown is not None and 0 <= unknown.first_index < len(batch):
            self._report.unknown_fields += unknown.captures
            if self._report.unknown_fields_line is None:
                self._report.unknown_fields_line = batch[unknown.first_index].number

    def refuse(self, line: int, reason: str, path: str) -> None:
        self._report.refused += 1
        if len(self._report.refusals) < self._limits.refusals_listed_max:
            self._report.refusals.append(RefusedLine(line, reason, path))

    async def _taken(self, body: bytes, first_line: int) -> httpx.Response:
        """Return the answer 200, however often it takes."""
        left_s = self._limits.retry_ms_max / 1000
        delay_s = _RETRY_DELAY_S
        while True:
            response = await self._post(body)
            if response is not None and response.status_code not in _RETRIED_STATUS:
                return _ok(response)
            wait_s = min(max(delay_s, _retry_after_s(response)), _RETRY_DELAY_S_MAX)
            if wait_s > left_s:
                raise NotDurable(
                    f"the collector does not answer, or cannot make captures durable: nothing from line {first_line} on"
                    " was accepted; send the rest again when it does"
                )
            await self._pause(wait_s)
            left_s -= wait_s
            delay_s *= 2
            self._report.retried += 1

    async def _post(self, body: bytes) -> httpx.Response | None:
        try:
            return await self._client.post("/v1/captures", content=body)
        except httpx.TransportError:
            return None


def _ok(response: httpx.Response) -> httpx.Response:
    if response.status_code != 200:
        sentence = _SENTENCES.get(response.status_code, f"the collector answers {response.status_code}")
        raise StartupError(sentence)
    return response


def _retry_after_s(response: httpx.Response | None) -> float:
    asked = response.headers.get("retry-after", "") if response is not None else ""
    return float(asked) if asked.isascii() and asked.isdecimal() else 0.0
