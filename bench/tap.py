"""(e) What the ASGI tap adds to a small JSON request, in pairs with and without it. `python -m bench.tap`."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path
from typing import Any

from auditap_tap import AuditTapMiddleware
from bench.results import BENCH, table, write_section

_ROUNDS = 5
_REQUESTS = 1_500
_PACE_S = 0.0005  # between requests, so that the tap's thread sends while none is measured
_BODY = (
    b'{"name":"Origin down","enabled":true,"alert_type":"origin_unreachable","filters":{"services":["dns"]}}'
)
_RESPONSE = b'{"result":{"id":"8a1f0c2b7d9e4c3b8d6e5f4a3b2c1d0e"},"success":true,"errors":[],"messages":[]}'
_HEADERS = [
    (b"host", b"api.example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64)"),
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer none"),
]


async def app(_: Any, receive: Any, send: Any) -> None:
    """Read the request and respond to it."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"x-actor-id", b"u1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _RESPONSE})


async def collector(path: str) -> None:
    """Accept whatever comes; runs in a process of its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                await respond(reader, writer)

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
        await reader.readexactly(int(fields.get(b"content-length", b"0")))
        text = b'{"accepted":1,"refused":[]}'
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(text), text)
        )

    async with await asyncio.start_unix_server(serve, path):
        print("ready", flush=True)
        # Ends when the process that started it closes the pipe.
        await asyncio.to_thread(sys.stdin.read)


async def request(target: Any) -> float:
    """Return the microseconds that one request takes."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/client/v4/accounts/1f0c2b7d9e8a4c3b8d6e5f4a3b2c1d0e/alerting/v3/policies",
        "raw_path": b"/client/v4/accounts/1f0c2b7d9e8a4c3b8d6e5f4a3b2c1d0e/alerting/v3/policies",
        "query_string": b"",
        "headers": _HEADERS,
        "client": ("203.0.113.9", 4711),
        "server": ("api.example.com", 443),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": _BODY, "more_body": False}

    async def send(_: Any) -> None:
        return

    began = time.perf_counter()
    await target(scope, receive, send)
    return (time.perf_counter() - began) * 1e6


def at(times: list[float], share: float) -> float:
    return sorted(times)[int(len(times) * share)]


async def measure(turns: int = _ROUNDS, requests: int = _REQUESTS) -> str:
    rounds: list[tuple[float, float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "c.sock")
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.tap", "--collector", path), stdin=PIPE, stdout=PIPE
        )
        assert child.stdout is not None
        await child.stdout.readline()
        tapped = AuditTapMiddleware(app, collector=f"unix:{path}", tap_id="bench", state_dir=folder)
        for _ in range(turns + 1):
            plain_us, tapped_us = [], []
            for _ in range(requests):
                plain_us.append(await request(app))
                tapped_us.append(await request(tapped))
                await asyncio.sleep(_PACE_S)
            rounds.append((at(plain_us, 0.5), at(tapped_us, 0.5), at(plain_us, 0.99), at(tapped_us, 0.99)))
        stats = tapped.stats
        tapped.close()
        child.kill()
        await child.wait()
    added = [
        (tapped_50 - plain_50, tapped_99 - plain_99)
        for plain_50, tapped_50, plain_99, tapped_99 in rounds[1:]
    ]
    rows = [[f"{p50:.0f}", f"{p99:.0f}"] for p50, p99 in added]
    medians = [f"**{statistics.median(each):.0f}**" for each in zip(*added, strict=True)]
    return (
        f"Microseconds added to a POST of {len(_BODY)} bytes with a response of {len(_RESPONSE)}, called without a server:"
        f" {turns} rounds of {requests:,} pairs, with a collector that accepts everything, in a process of its own. In bold the"
        f" medians of the rounds. {stats.dropped:,} pairs of {(turns + 1) * requests:,} were dropped.\n\n"
        + table(["p50", "p99"], [*rows, medians])
    )


def run() -> None:
    write_section("(e) The tap", asyncio.run(measure()))


if __name__ == "__main__":
    os.chdir(BENCH.parent)
    if sys.argv[1:2] == ["--collector"]:
        asyncio.run(collector(sys.argv[2]))
    else:
        run()
