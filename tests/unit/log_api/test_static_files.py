"""The explorer's page: served beside the API, by a strict policy, at any prefix."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from importlib.resources import files

import httpx
import pytest

from log_api.app import log_api_app
from log_api.config import LogApiConfig
from schemas.metric_defs import Metrics
from tests.unit.log_api.memory_log import MemoryLog

GZIPPED_BYTES_MAX = 150_000


def client_of(log: MemoryLog, prefix: str = "/client/v4") -> httpx.AsyncClient:
    app = log_api_app(log, LogApiConfig(cursor_key=b"k" * 32, prefix=prefix), Metrics(), lambda: 0)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://log.test")


@pytest.fixture
async def client(memory_log: MemoryLog) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(memory_log) as found:
        yield found


def assets_in(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="\./(assets/[^"]+)"', page)


async def test_the_page_needs_no_token_and_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    # Every address is relative, and no script or style is inline.
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert addresses
    assert all(address.startswith("./assets/") for address in addresses)
    assert "<style" not in page.text
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page.text))


@pytest.mark.parametrize("prefix", ["/client/v4", "/deep/er/path", ""])
async def test_the_page_knows_where_the_api_is(memory_log: MemoryLog, prefix: str) -> None:
    async with client_of(memory_log, prefix) as client:
        page = (await client.get("/")).text
        assert f'<meta name="auditap-api" content="{prefix.removeprefix("/")}"' in page
        assert (await client.get(f"{prefix}/openapi.json")).status_code == 200


async def test_assets_are_kept_by_browsers_and_the_page_is_not(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    for name in assets_in(page.text):
        asset = await client.get(f"/{name}")
        assert asset.status_code == 200
        assert "immutable" in asset.headers["cache-control"]


async def test_assets_are_compressed_for_who_accepts_it(client: httpx.AsyncClient) -> None:
    (name,) = (each for each in assets_in((await client.get("/")).text) if each.endswith(".js"))
    plain = await client.get(f"/{name}", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    async with client.stream("GET", f"/{name}", headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["content-encoding"] == "gzip"
        compressed = b"".join([chunk async for chunk in response.aiter_raw()])
    assert gzip.decompress(compressed) == plain.content
    assert plain.headers["vary"] == "Accept-Encoding"


def test_all_files_together_are_small() -> None:
    built = list((files("log_api") / "static" / "assets").iterdir())
    assert sum(len(gzip.compress(file.read_bytes(), 9)) for file in built) < GZIPPED_BYTES_MAX


@pytest.mark.parametrize(
    "path",
    [
        "/assets/",
        "/assets/..%2findex.html",
        "/assets/../app.py",
        "/assets/%2e%2e/app.py",
        "/assets/x.js",
        "/index.html",
    ],
)
async def test_nothing_but_the_built_files_is_served(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert response.json()["success"] is False


async def test_the_page_can_only_be_read(client: httpx.AsyncClient) -> None:
    assert (await client.post("/")).status_code == 405
    head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")
