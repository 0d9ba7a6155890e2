"""Serves the explorer: the files that its build put into `log_api/static/`, loaded once at start.

The page is at `/` of the log API's address and uses relative addresses only, so that it works behind any path prefix.
"""

from __future__ import annotations

import gzip
import mimetypes
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

# The built files name it where the page must find the API.
_API_PLACE = "__AUDITAP_API__"
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
# Their names change with their content.
_ASSET_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _File(NamedTuple):
    content: bytes
    compressed: bytes
    media_type: str

    def response(self, request: Request, headers: dict[str, str]) -> Response:
        headers = headers | {"Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(self.compressed, media_type=self.media_type, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def explorer_routes(api_prefix: str) -> list[Route]:
    """Return the routes `/` and `/assets/{name}`. The page calls the API at `api_prefix` beside it."""
    folder = files("log_api") / "static"
    page = _page(folder / "index.html", api_prefix)
    assets = dict(_assets(folder / "assets"))

    async def show_page(request: Request) -> Response:
        return page.response(request, _PAGE_HEADERS)

    async def show_asset(request: Request) -> Response:
        found = assets.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return found.response(request, _ASSET_HEADERS)

    return [Route("/", show_page), Route("/assets/{name}", show_asset)]


def _page(file: Traversable, api_prefix: str) -> _File:
    text = file.read_text("utf-8").replace(_API_PLACE, escape(api_prefix.removeprefix("/")))
    return _file(text.encode(), "text/html; charset=utf-8")


def _assets(folder: Traversable) -> Iterator[tuple[str, _File]]:
    for file in folder.iterdir():
        media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        yield file.name, _file(file.read_bytes(), media_type)


def _file(content: bytes, media_type: str) -> _File:
    return _File(content, gzip.compress(content, 9, mtime=0), media_type)
