"""Serve an ASGI application on sockets that are bound already."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from auditap.runtime.connection_share import ConnectionShare
from auditap.runtime.descriptors import descriptor_shares
from auditap.runtime.http_connection import ConnectionOwner, HttpConnection
from auditap.runtime.http_limits import HttpLimits
from auditap.runtime.http_listener import HttpListener, ListenerName
from auditap.settings_mistakes import variable_name
from schemas.errors import StartupError
from schemas.metric_defs import Metrics

_TICKS_BETWEEN_CHECKS: Final = 5  # ticks are a tenth of a second


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """TLS of this address. Without this table it speaks plain HTTP."""

    certificate: Path
    """PEM file of the server's certificate, followed by its intermediate ones."""
    key: Path
    """PEM file of the certificate's private key."""
    client_authority: Path | None = None
    """PEM file of the authority that clients' certificates must come from. Default: clients need none."""


class _Server(uvicorn.Server):
    """uvicorn's server, with listeners of our own in place of the loop's, and without signal handlers.

    `lifecycle.stop_on_signals` handles signals for the whole process.
    """

    def __init__(
        self, config: uvicorn.Config, make: Callable[[uvicorn.Server], Sequence[HttpListener]]
    ) -> None:
        super().__init__(config)
        self._make = make
        self.listeners: Sequence[HttpListener] = ()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        self.listeners = self._make(self)
        # `shutdown` closes them.
        self.servers = list(self.listeners)  # type: ignore[arg-type]
        for listener in self.listeners:
            listener.start()
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_BETWEEN_CHECKS == 0:
            for listener in self.listeners:
                listener.check()
        return await super().on_tick(counter)


class HttpServer:
    """One application on one or more listening sockets, within the running loop."""

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        *,
        name: ListenerName = "tcp",
        limits: HttpLimits | None = None,
        metrics: Metrics | None = None,
        tls: TlsFiles | None = None,
        drain_wait_s: int = 10,
        share: ConnectionShare | None = None,
    ) -> None:
        """`name`: the listener in metrics; all but `tcp` may use descriptors that are reserved. `metrics`: None counts nothing.

        `share`: see `HttpListener`.
        """
        self._sockets = list(sockets)
        self._name = name
        self._limits = limits or HttpLimits()
        self._metrics = metrics or Metrics()
        self._tls = tls
        self._share = share
        authority = tls.client_authority if tls else None
        config = uvicorn.Config(
            app,
            log_config=None,
            # An access log would hold paths and queries, which are traffic.
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=True,
            http="httptools",
            ws="none",
            # Longer than ours, which is counted.
            timeout_keep_alive=2 * self._limits.idle_ms_max // 1000 + 1,
            timeout_graceful_shutdown=drain_wait_s,
            ssl_certfile=str(tls.certificate) if tls else None,
            ssl_keyfile=str(tls.key) if tls else None,
            ssl_ca_certs=str(authority) if authority else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if authority else ssl.CERT_NONE,
        )
        self._server = _Server(config, self._make_listeners)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once connections are accepted. Raises StartupError where the TLS files cannot be used."""
        try:
            self._server.config.load()
        except OSError:
            raise StartupError(f"{_mistake_of(self._tls)}: correct the path or the file.") from None
        # Here too, so that its error is raised to the caller.
        descriptor_shares()
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
        for listener in self._server.listeners:
            listener.abort()
        for one in self._sockets:
            one.close()

    def _make_listeners(self, server: uvicorn.Server) -> Sequence[HttpListener]:
        loop = asyncio.get_running_loop()
        shares = descriptor_shares()

        def make(state: dict[str, Any], owner: ConnectionOwner) -> HttpConnection:
            return HttpConnection(
                server.config, server.server_state, state, loop=loop, limits=self._limits, owner=owner
            )

        return [
            HttpListener(
                listening,
                self._name,
                limits=self._limits,
                descriptors_below=shares.public if self._name == "tcp" else shares.reserved,
                metrics=self._metrics,
                tls=server.config.ssl,
                make=make,
                share=self._share,
            )
            for listening in self._sockets
        ]


def _mistake_of(tls: TlsFiles | None) -> str:
    """Return what is wrong with files that TLS does not begin with, as the beginning of a sentence."""
    files = (tls.certificate, tls.key, tls.client_authority) if tls else ()
    for path in files:
        if path is not None and not os.access(path, os.R_OK):
            return f"The TLS file {path} cannot be read"
    return f"Of the TLS files {', '.join(str(path) for path in files if path)} one is no PEM file, or the key is of another certificate"


def bind_tcp_socket(host: str, port: int, setting: str = "") -> socket.socket:
    """Return a listening socket. Raises StartupError where the address is in use or not of this machine; it names the `setting`,
    which is that of an address or of a port alone.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol given, asyncio turns Nagle's algorithm off. Without it, responses wait for acknowledgements.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(2048)
    except OSError as error:
        bound.close()
        port_setting = f"{setting}.port" if setting.endswith("address") else setting
        how = f" by {port_setting} ({variable_name(tuple(port_setting.split('.')))})" if setting else ""
        raise StartupError(
            f"The address {host}:{port} cannot be used ({error.strerror}): stop what listens there, or choose another port{how}."
        ) from None
    bound.setblocking(False)
    return bound
