"""Messages between the processes of one collector, over a socket pair between the parent and each worker.

Each end may ask the other for its health. When a process ends, for whatever reason, the other end notices that the socket is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeVar

import msgspec

from auditap.runtime.health import HealthStatus
from auditap.runtime.merged_metrics import Family

_LENGTH_BYTES: Final = 4
_MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Far above what a page of metrics takes."""

Subject = Literal["status", "metrics", "page"]
_AnswerType = TypeVar("_AnswerType", bound="Answer")


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Asks for one thing; the answer has the same number."""

    number: int
    subject: Subject


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to the question of this number."""

    number: int = 0


class StatusAnswer(Answer, frozen=True, tag=True):
    """Of each dependency whether it can be used, and what the process does without."""

    parts: dict[str, bool]
    degraded: list[str]

    @classmethod
    def of(cls, status: HealthStatus) -> StatusAnswer:
        return cls(parts=dict(status.parts), degraded=list(status.degraded))


class MetricsAnswer(Answer, frozen=True, tag=True):
    """The metrics of a worker."""

    families: list[Family]


class PageAnswer(Answer, frozen=True, tag=True):
    """The metrics of all, in Prometheus' text format."""

    page: bytes


class CannotStart(msgspec.Struct, frozen=True, tag=True):
    """A worker ends because waiting cannot help; `sentence` is for the operator."""

    sentence: str


_Message = Ask | StatusAnswer | MetricsAnswer | PageAnswer | CannotStart
Respond = Callable[[Subject], Awaitable[Answer]]
_decoder: Final[msgspec.msgpack.Decoder[_Message]] = msgspec.msgpack.Decoder(_Message)
_encoder: Final = msgspec.msgpack.Encoder()


class WorkerChannel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, respond: Respond) -> None:
        self._reader = reader
        self._writer = writer
        self._respond = respond
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._responding: set[asyncio.Task[None]] = set()
        self._has_ended = False
        self.cannot_start: str | None = None
        """Why the worker at the other end cannot start, if it said so."""

    @classmethod
    async def on(cls, connected: socket.socket, respond: Respond) -> WorkerChannel:
        """Return the channel over `connected`, one socket of the pair. `respond` answers what the other end asks."""
        reader, writer = await asyncio.open_unix_connection(sock=connected)
        return cls(reader, writer, respond)

    async def run(self) -> None:
        """Answer the other end until it has ended."""
        try:
            while (message := await self._next()) is not None:
                self._take(message)
        finally:
            self._has_ended = True
            for task in self._responding:
                task.cancel()
            await asyncio.gather(*self._responding, return_exceptions=True)
            for asked in self._asked.values():
                asked.cancel()
            self._writer.close()

    async def ask(self, subject: Subject, kind: type[_AnswerType], within_ms: int) -> _AnswerType | None:
        """Return the other end's answer; None where it gives none in time, or has ended."""
        if self._has_ended:
            return None
        self._number += 1
        number = self._number
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(Ask(number, subject))
            await asyncio.wait([answer], timeout=within_ms / 1000)
            found = answer.result() if answer.done() and not answer.cancelled() else None
            return found if isinstance(found, kind) else None
        finally:
            del self._asked[number]

    def send_first(self, message: bytes) -> None:
        """Send what the other end reads by `receive_first`."""
        self._writer.write(framed(message))

    async def say_why(self, sentence: str) -> None:
        """Send the parent the reason why this worker cannot start."""
        self._send(CannotStart(sentence))
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def _send(self, message: _Message | Answer) -> None:
        if not self._writer.is_closing():
            self._writer.write(framed(_encoder.encode(message)))

    async def _next(self) -> _Message | None:
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            if length > _MESSAGE_BYTES_MAX:
                return None
            return _decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
            # A message cannot be decoded if the package was upgraded after the parent had started: the worker is of another release.
            return None

    def _take(self, message: _Message) -> None:
        if isinstance(message, Ask):
            task = asyncio.create_task(self._answer(message), name="worker-answer")
            self._responding.add(task)
            task.add_done_callback(self._responding.discard)
        elif isinstance(message, CannotStart):
            self.cannot_start = message.sentence
        elif (asked := self._asked.get(message.number)) is not None and not asked.done():
            asked.set_result(message)

    async def _answer(self, ask: Ask) -> None:
        answer = await self._respond(ask.subject)
        self._send(msgspec.structs.replace(answer, number=ask.number))


def framed(message: bytes) -> bytes:
    """Return a message as it is sent: its length, in four bytes, before it."""
    return len(message).to_bytes(_LENGTH_BYTES, "big") + message


def receive_first(connected: socket.socket) -> bytes | None:
    """Return the first message, before a loop runs; None where the other end has ended."""
    length = _received(connected, _LENGTH_BYTES)
    return length and _received(connected, int.from_bytes(length, "big"))


def _received(connected: socket.socket, count: int) -> bytes | None:
    parts = b""
    while len(parts) < count:
        part = connected.recv(count - len(parts))
        if not part:
            return None
        parts += part
    return parts
