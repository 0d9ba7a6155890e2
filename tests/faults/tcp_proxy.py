"""A TCP proxy that does to connections what networks do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from tests.ports import free_port

_CHUNK_BYTES = 16_384


class TcpProxy:
    """Passes connections on to a port of this machine, until `faults` change that.

    `target` is asked at each connection, so that what stands behind may move. `cut_after_bytes` ends a connection,
    without an error, as soon as its client has sent so many bytes since the number was set; `silent` keeps every
    connection open and passes nothing on.
    """

    def __init__(self, target: Callable[[], int]) -> None:
        self.port = free_port()
        self.cut_after_bytes: int | None = None
        self.cuts = 0
        self._target = target
        self._passing = asyncio.Event()
        self._passing.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def silent(self) -> bool:
        return not self._passing.is_set()

    @silent.setter
    def silent(self, silent: bool) -> None:
        if silent:
            self._passing.clear()
        else:
            self._passing.set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """End every connection at once, as a cable that is pulled out."""
        for writer in self._writers:
            writer.transport.abort()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        # Named from its beginning: a test may look which tasks outlive it before this one has run.
        task = asyncio.create_task(self._serve(reader, writer), name="proxy-connection")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._target())
            self._writers.add(upstream)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, upstream, counted=True), name="proxy-pump")
                pumps.create_task(self._pump(answers, writer, counted=False), name="proxy-pump")
        except (OSError, ExceptionGroup):
            pass
        finally:
            for each in (writer, upstream):
                if each is not None:
                    self._writers.discard(each)
                    each.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool) -> None:
        passed = 0
        while chunk := await source.read(_CHUNK_BYTES):
            await self._passing.wait()
            if counted and self.cut_after_bytes is not None:
                passed += len(chunk)
                if passed > self.cut_after_bytes:
                    self.cuts += 1
                    # The first half of the chunk arrives: what is cut is in the middle of something.
                    sink.write(chunk[: len(chunk) // 2])
                    with contextlib.suppress(OSError):
                        await sink.drain()
                    break
            else:
                passed = 0
            sink.write(chunk)
            await sink.drain()
        raise ConnectionAbortedError  # takes the other direction with it
