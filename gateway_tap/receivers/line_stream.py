"""A receiver of lines: gateways that write one pair on each line connect to a Unix stream socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final

from gateway_tap.formats.port import LineFormat, NoPair
from gateway_tap.receivers.received_tap import ReceivedTap
from gateway_tap.turns import in_turns
from gateway_tap.unix_socket import bind_unix_socket
from schemas.errors import RefusedCapture

LINE_BYTES_MAX: Final = 4 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024
_CONNECTIONS_MAX: Final = 256


class LineStream:
    """Takes the lines of all connections to a socket, and hands them to a tap.

    Reading never waits for anything but the lines: what the tap has no room for is dropped and counted. A line that is too long,
    and the end of one that was cut off, are counted as refused.
    """

    def __init__(self, path: Path, line_format: LineFormat) -> None:
        """Bind the socket. Raises StartupError."""
        self._path = path
        self._format = line_format
        self._listener: socket.socket = bind_unix_socket(path, setting="collector.receivers")
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, tap: ReceivedTap) -> None:
        """Hand lines to `tap` until cancelled."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connected(reader, writer, tap)

        server = await asyncio.start_unix_server(connected, sock=self._listener, limit=_READ_BYTES)
        try:
            await server.serve_forever()
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            self._path.unlink(missing_ok=True)

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tap: ReceivedTap
    ) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= _CONNECTIONS_MAX:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._read(reader, tap)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, tap: ReceivedTap) -> None:
        lines = _Lines()
        while chunk := await reader.read(_READ_BYTES):
            async for line in in_turns(lines.split(chunk)):
                self._take(line, tap)
        if lines.has_begun:
            tap.refuse()

    def _take(self, line: bytes | None, tap: ReceivedTap) -> None:
        if line is None:
            tap.refuse()
            return
        position = self._format.position(line)
        try:
            capture = self._format.decode(line)
        except NoPair:
            # There was nothing to capture, so nothing is missing.
            if position is not None:
                tap.pass_over(position)
        except RefusedCapture:
            tap.refuse(position)
        else:
            tap.take(capture, len(line), position)


class _Lines:
    """Splits what arrives into lines of at most LINE_BYTES_MAX."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._is_too_long = False

    @property
    def has_begun(self) -> bool:
        """Whether a line has begun and not ended."""
        return self._is_too_long or bool(self._begun)

    def split(self, chunk: bytes) -> list[bytes | None]:
        """Return the lines that end in this chunk; None for one that is too long. Blank lines are left out."""
        *ended, rest = chunk.split(b"\n")
        lines: list[bytes | None] = []
        for part in ended:
            self._add(part)
            if self._is_too_long:
                lines.append(None)
            elif self._begun.strip():
                lines.append(bytes(self._begun))
            self._begun.clear()
            self._is_too_long = False
        self._add(rest)
        return lines

    def _add(self, part: bytes) -> None:
        if self._is_too_long or len(self._begun) + len(part) > LINE_BYTES_MAX:
            self._is_too_long = True
            self._begun.clear()
        else:
            self._begun += part
