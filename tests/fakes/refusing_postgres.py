"""A server that speaks as much of Postgres' protocol as it takes to refuse a session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_SSL_REQUEST = 80_877_103


@asynccontextmanager
async def refusing(state: str, message: str) -> AsyncIterator[str]:
    """Yield the DSN of a server without TLS that answers each session with this SQLSTATE and message."""
    fields = (b"SFATAL", b"VFATAL", b"C" + state.encode(), b"M" + message.encode())
    body = b"".join(field + b"\0" for field in fields) + b"\0"
    answer = b"E" + (len(body) + 4).to_bytes(4, "big") + body

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await _startup_code(reader) == _SSL_REQUEST:
                writer.write(b"N")
                await _startup_code(reader)
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    try:
        yield f"postgresql://somebody:s3cret@127.0.0.1:{server.sockets[0].getsockname()[1]}/audit"
    finally:
        server.close()
        await server.wait_closed()


async def _startup_code(reader: asyncio.StreamReader) -> int:
    """Read a message of the beginning of a session, and return what it asks for."""
    length = int.from_bytes(await reader.readexactly(4), "big")
    return int.from_bytes((await reader.readexactly(length - 4))[:4], "big")
