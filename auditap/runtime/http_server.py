"""Serve an ASGI application on sockets that are bound already."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from schemas.errors import StartupError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """TLS of this address. Without this table it speaks plain HTTP."""

    certificate: Path
    """PEM file of the server's certificate, followed by its intermediate ones."""
    key: Path
    """PEM file of the certificate's private key."""
    client_authority: Path | None = None
    """PEM file of the authority that clients' certificates must come from. Default: clients need none."""


class _QuietServer(uvicorn.Server):
    """A server that installs no signal handlers: `lifecycle.stop_on_signals` does that for the whole process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """One application on one or more listening sockets, within the running loop."""

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        *,
        tls: TlsFiles | None = None,
        drain_wait_s: int = 10,
    ) -> None:
        self._sockets = list(sockets)
        authority = tls.client_authority if tls else None
        config = uvicorn.Config(
            app,
            log_config=None,
            # An access log would hold paths and queries, which are traffic.
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=True,
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=drain_wait_s,
            ssl_certfile=str(tls.certificate) if tls else None,
            ssl_keyfile=str(tls.key) if tls else None,
            ssl_ca_certs=str(authority) if authority else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if authority else ssl.CERT_NONE,
        )
        self._server = _QuietServer(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once connections are accepted. Raises StartupError where the TLS files cannot be used."""
        try:
            self._server.config.load()
        except OSError:
            raise StartupError(
                "The TLS certificate or key cannot be read: correct the paths or the files."
            ) from None
        self._serving = asyncio.create_task(self._server.serve(self._sockets), name="http-server")
        while not self._server.started:
            if self._serving.done():
                await self._serving
                raise StartupError("The HTTP server ended before it began to serve.")
            # uvicorn has a flag for it, and nothing to wait for.
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Accept no more connections, let requests end within `drain_wait_s`, close the sockets."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
        for one in self._sockets:
            one.close()


def bind_tcp_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises StartupError where the address is in use or not of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol given, asyncio turns Nagle's algorithm off. Without it, responses wait for acknowledgements.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise StartupError(
            f"The address {host}:{port} cannot be used ({error.strerror}): stop what listens there or choose another."
        ) from None
    bound.setblocking(False)
    return bound
