"""The middlewares around applications of several frameworks, on several servers: what they bring, and that nobody notices."""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from schemas.capture import body_bytes
from tests.frameworks.apps.tapping import PARTS
from tests.gateways.beside import served_beside
from tests.gateways.collected import Collected, collecting
from tests.gateways.gateway import process
from tests.ports import free_port

pytestmark = pytest.mark.processes

_APPS = "tests.frameworks.apps"
ASGI = {
    "starlette": f"{_APPS}.starlette_app:app",
    "fastapi": f"{_APPS}.fastapi_app:app",
    "django": f"{_APPS}.django_project:asgi_app",
    "litestar": f"{_APPS}.litestar_app:app",
    "sanic": f"{_APPS}.sanic_app:app",
}
WSGI = {"flask": f"{_APPS}.flask_app:app", "django": f"{_APPS}.django_project:wsgi_app"}
_HOST = "127.0.0.1"


class Service(NamedTuple):
    """A framework's application on a server: the server's command line, where `{port}` stands for the port.

    `reads_chunks`: whether the framework reads a body without a length, which PEP 3333 does not ask of it. `reports_end`: whether
    the server ends in a way in which the tap can say so; docs/completeness.md lists those that do not.
    """

    name: str
    command: tuple[str, ...]
    reads_chunks: bool = True
    reports_end: bool = True

    def __str__(self) -> str:
        return self.name


def _services() -> Iterator[Service]:
    for framework, app in ASGI.items():
        yield Service(f"{framework} on uvicorn", ("uvicorn", app, "--host", _HOST, "--port", "{port}"))
        yield Service(f"{framework} on hypercorn", ("hypercorn", app, "--bind", f"{_HOST}:{{port}}"))
        command: tuple[str, ...] = (
            "granian",
            "--interface",
            "asgi",
            "--host",
            _HOST,
            "--port",
            "{port}",
            app,
        )
        # Django raises in lifespan.
        yield Service(f"{framework} on granian", command, reports_end=framework != "django")
    for framework, app in WSGI.items():
        chunks, name = framework != "django", f"{framework} (WSGI)"
        command = ("gunicorn", app, "--bind", f"{_HOST}:{{port}}", "--workers", "2")
        yield Service(f"{name} on gunicorn", command, chunks)
        command = ("granian", "--interface", "wsgi", "--host", _HOST, "--port", "{port}", app)
        yield Service(f"{name} on granian", command, chunks, reports_end=False)


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[tuple[str, Collected]]:
    """Start the service, tapped, and a collector. Yields its address, and what the collector has."""
    port = free_port()
    program, *arguments = (part.replace("{port}", str(port)) for part in service.command)
    with (
        tempfile.TemporaryDirectory(prefix="auditap-") as folder,
        served_beside(collecting(Path(folder))) as collected,
    ):
        environment = {
            "COLLECTOR_SOCKET": str(collected.socket),
            "STATE_DIR": f"{folder}/state",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = (sys.executable, "-m", program, *arguments)
        async with process(command, Path(folder), [port], environment):
            yield f"http://{_HOST}:{port}", collected


@pytest.mark.parametrize("service", list(_services()), ids=str)
async def test_pairs_arrive_and_responses_are_as_without_a_tap(service: Service) -> None:
    sent, json_type = b'{"name": "bolt"}', {"content-type": "application/json"}
    # Servers close a connection that has been idle for seconds, maybe just when the next request is sent on it.
    anew = httpx.Limits(max_keepalive_connections=0)
    async with (
        running(service) as (url, collected),
        httpx.AsyncClient(base_url=url, timeout=60, limits=anew) as client,
    ):

        async def exchange(marker: str, method: str, target: str, **request: object) -> httpx.Response:
            headers = {**json_type, "x-request-id": marker}
            return await client.request(method, target, headers=headers, **request)  # type: ignore[arg-type]

        created = await exchange("post", "POST", "/widgets?name=%C3%A9&x=a%20b", content=sent)
        assert (created.status_code, created.json()["received_bytes"]) == (201, len(sent))
        post = await collected.one_of("post")
        assert post.request.url.endswith("/widgets?name=%C3%A9&x=a%20b")
        assert body_bytes(post.request) == sent
        assert body_bytes(post.response) == created.content
        assert (post.response.status, post.response.complete) == (201, True)
        assert post.response.headers["x-actor-email"] == "ops@example.com"
        assert post.client_ip == _HOST

        read = await exchange("get", "GET", "/widgets")
        got = await collected.one_of("get")
        assert (read.status_code, got.response.status) == (200, 200)
        assert body_bytes(got.response) is None

        assert (await exchange("delete", "DELETE", "/widgets")).status_code == 204
        assert (await collected.one_of("delete")).response.status == 204

        streamed = await exchange("stream", "POST", "/stream", content=sent)
        assert streamed.content == b"".join(PARTS)
        stream = await collected.one_of("stream")
        assert body_bytes(stream.response) == streamed.content
        assert stream.response.complete

        assert (await exchange("fail", "POST", "/fail", content=sent)).status_code == 500
        assert (await collected.one_of("fail")).response.status == 500

        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, len(sent), 5):
                yield sent[start : start + 5]

        # Else the server may close the connection, with a response or without one.
        if service.reads_chunks:
            chunked = await exchange("chunked", "POST", "/widgets", content=parts())
            assert chunked.json()["received_bytes"] == len(sent)
            assert body_bytes((await collected.one_of("chunked")).request) == sent

        zipped = gzip.compress(sent, mtime=0)
        await client.post(
            "/widgets",
            content=zipped,
            headers={**json_type, "x-request-id": "gzip", "content-encoding": "gzip"},
        )
        assert body_bytes((await collected.one_of("gzip")).request) == zipped

    numbers: dict[int, set[int]] = {}
    for each in collected.sink.accepted:
        assert each.capture.tap is not None
        assert each.capture.tap.epoch is not None
        numbers.setdefault(each.capture.tap.epoch, set()).add(each.capture.tap.seq or 0)
    assert all(seqs == set(range(1, len(seqs) + 1)) for seqs in numbers.values())
    ended = {beat.tap.epoch for beat in collected.sink.heartbeats if beat.state == "ended"}
    assert not service.reports_end or ended >= numbers.keys()
