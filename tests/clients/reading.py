"""Runs a client and reads with it page by page: between two pages, a test may change the log."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.clients.installed import ROOT, go_program, node_modules, python_packages

# A page of large records is one line.
_LINE_BYTES_MAX = 64 << 20
_PROGRAMS = Path(__file__).parent


class Page(NamedTuple):
    """A page as the client decoded it. `unexpected` names what the client does not know of it."""

    records: list[dict[str, Any]]
    unexpected: list[str]


class ClientFailedError(Exception):
    """The client raised an error of the log API: its own type, the HTTP status as it knows it, and the codes."""

    def __init__(self, kind: str, status: int, codes: list[int]) -> None:
        super().__init__(kind, status, codes)
        self.kind = kind
        self.status = status
        self.codes = codes


@dataclass(frozen=True)
class Client:
    """A program that reads a log with a client. `reads`: what it can read, by the name that the program has for it."""

    name: str
    command: tuple[str, ...]
    reads: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    retries: bool = True
    """Whether the client tries again by itself when it is told to wait."""
    statuses: bool = True
    """Whether an error of the client tells the HTTP status."""

    def __str__(self) -> str:
        return self.name

    async def pages(self, reads: str, **request: Any) -> AsyncGenerator[Page]:
        """Yield each page; the client reads on with the next one. Raises ClientFailedError."""
        given = {"retries": 0, "per_page": 50, **request, "reads": self.reads[reads]}
        process = await asyncio.create_subprocess_exec(
            *self.command,
            json.dumps(given),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=_LINE_BYTES_MAX,
            cwd=ROOT,
            env={**_plain_environment(), **self.environment},
        )
        try:
            while "end" not in (line := await _line(process)):
                if "failure" in line:
                    raise ClientFailedError(**line["failure"])
                yield Page(line["page"], line.get("unexpected", []))
                assert process.stdin is not None
                process.stdin.write(b"\n")
        finally:
            # It ends where there is no more to read, and where its standard input ends.
            await process.communicate(b"")

    async def read(self, reads: str, **request: Any) -> list[dict[str, Any]]:
        """Return all records that the client reads, in its order. Raises ClientFailedError."""
        async with aclosing(self.pages(reads, **request)) as pages:
            return [record async for page in pages for record in page.records]


async def _line(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    text = await process.stdout.readline()
    if not text:
        _, errors = await process.communicate()
        raise AssertionError(f"the client ended: {errors.decode(errors='replace')[-4000:]}")
    line: dict[str, Any] = json.loads(text)
    return line


def _plain_environment() -> dict[str, str]:
    """The SDKs read variables of their own, which a developer may have set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CLOUDFLARE_", "CF_"))}


def python_sdk() -> Client:
    """The current major version, as the tests have it."""
    return _python("Python SDK 5", "read_sdk", {"v2": "v2", "v1": "v1"})


def python_sdk_v4() -> Client:
    packages = {"PYTHONPATH": str(python_packages("v4"))}
    return _python("Python SDK 4", "read_sdk", {"v2": "v2", "v1": "v1"}, packages)


def python_sdk_v2() -> Client:
    """It knows audit logs v1 alone, and errors by their codes."""
    packages = {"PYTHONPATH": str(python_packages("v2"))}
    return _python("Python SDK 2", "read_sdk_v2", {"v1": "v1"}, packages, retries=False, statuses=False)


def _python(
    name: str,
    program: str,
    reads: Mapping[str, str],
    environment: Mapping[str, str] | None = None,
    *,
    retries: bool = True,
    statuses: bool = True,
) -> Client:
    command = (sys.executable, "-m", f"tests.clients.python.{program}")
    return Client(name, command, reads, environment or {}, retries, statuses)


def typescript_sdk() -> Client:
    reads = {each: each for each in ("v2", "v1", "history", "organization")}
    return _node("TypeScript SDK 7", ("read.cjs", "cloudflare"), reads)


def typescript_sdk_v4() -> Client:
    """It follows `result_info.cursor`, where later versions follow `result_info.cursors.after`."""
    return _node("TypeScript SDK 4", ("read.cjs", "cloudflare-v4"), {"v2": "v2", "v1": "v1"})


def mcp_server() -> Client:
    return _node("MCP server", ("mcp_server.cjs",), {"v2": "v2"})


def _node(name: str, program: tuple[str, ...], reads: Mapping[str, str]) -> Client:
    script, *arguments = program
    modules = {"NODE_PATH": str(node_modules())}
    return Client(name, ("node", str(_PROGRAMS / "node" / script), *arguments), reads, modules)


def go_sdk() -> Client:
    reads = {each: f"v7 {each}" for each in ("v2", "v1", "history", "organization")}
    return Client("Go SDK 7", (str(go_program()),), reads)


def go_sdk_v0() -> Client:
    """It knows audit logs v1 alone. It tries again, but shows no more than that it gave up."""
    return Client("Go SDK 0", (str(go_program()),), {"v1": "v0 v1", "user": "v0 user"})


def go_scraper() -> Client:
    return Client("Go scraper", (str(go_program()),), {"v1": "scraper v1"})


def go_poller_by_seconds() -> Client:
    return Client("Go poller by seconds", (str(go_program()),), {"v2": "second poller v2"})


def go_poller_of_one_page() -> Client:
    return Client("Go poller of one page", (str(go_program()),), {"v1": "page poller v1"})
