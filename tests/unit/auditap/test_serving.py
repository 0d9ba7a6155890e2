from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from auditap.runtime.health import Health, with_health_routes
from auditap.runtime.http_server import HttpServer, TlsFiles, bind_tcp_socket
from schemas.errors import StartupError
from schemas.metric_defs import Metrics
from tests.ports import free_port


async def hello(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def test_operators_routes_stand_before_the_application() -> None:
    parts = {"log": True, "store": False}

    async def log_ready() -> bool:
        return parts["log"]

    async def store_ready() -> bool:
        return parts["store"]

    readiness = {"log": log_ready, "store": store_ready}
    metrics = Metrics()
    metrics.records_stored.inc(3)
    app = with_health_routes(Starlette(routes=[Route("/hello", hello)]), Health(metrics, readiness))
    # Not one that another process may be given as soon as this server has ended.
    port = free_port()
    listening = bind_tcp_socket("127.0.0.1", port)
    base = f"http://127.0.0.1:{port}"
    server = HttpServer(app, [listening])
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=base, timeout=120) as client:
            assert (await client.get("/hello")).text == "hello"
            assert (await client.get("/healthz")).json() == {"status": "ok"}
            unready = await client.get("/readyz")
            assert (unready.status_code, unready.json()) == (503, {"ready": False, "parts": parts})
            parts["store"] = True
            assert (await client.get("/readyz")).status_code == 200
            assert "auditap_records_stored_total 3.0" in (await client.get("/metrics")).text
    finally:
        await server.stop()
    async with httpx.AsyncClient(base_url=base, timeout=120) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/healthz")


def test_an_address_in_use_is_reported_in_a_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartupError, match=f"127.0.0.1:{port} cannot be used"):
            bind_tcp_socket("127.0.0.1", port)
        with pytest.raises(
            StartupError,
            match=r"or choose another port by api\.health_address\.port \(AUDITAP_API__HEALTH_ADDRESS__PORT\)\.$",
        ):
            bind_tcp_socket("127.0.0.1", port, "api.health_address")


async def test_a_certificate_that_cannot_be_read_is_reported_in_a_sentence(tmp_path: Path) -> None:
    listening = bind_tcp_socket("127.0.0.1", 0)
    server = HttpServer(Starlette(), [listening], tls=TlsFiles(tmp_path / "none.pem", tmp_path / "none.key"))
    with pytest.raises(StartupError, match=r"^The TLS file .*/none\.pem cannot be read: correct"):
        await server.start()
    await server.stop()
    files = TlsFiles(tmp_path / "some.pem", tmp_path / "some.key")
    for file in (files.certificate, files.key):
        file.write_text("no PEM")
    server = HttpServer(Starlette(), [bind_tcp_socket("127.0.0.1", 0)], tls=files)
    with pytest.raises(
        StartupError, match=r"^Of the TLS files .*/some\.pem, .*/some\.key one is no PEM file"
    ):
        await server.start()
    await server.stop()
