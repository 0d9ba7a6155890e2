"""What one token notices while another sends all that it may to the same log API.

`python -m bench.log_api_neighbours --dir FOLDER` starts an embedded Postgres in the folder, fills it once as `bench.log_api`
does, serves it with `auditap serve` in a process of its own, and writes `bench/RESULTS-log-api-neighbours.md`. Token A, of the
largest account, has 30 requests under way at all times. Token B, of another account, lists records and opens tails, one after
the other. `/readyz` is asked beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx

from auditap.database.connection import administrator
from auditap.database.tokens import create_token
from bench.log_api import filled_database, last_ms
from bench.seed_records import DAY_MS, Seed, account_id
from log_api.ports import Permission
from schemas.identity import rfc3339_ms
from tests.audit_database import AuditDatabase
from tests.ports import free_port

RESULTS = Path(__file__).parent / "RESULTS-log-api-neighbours.md"
_CONCURRENT = 30
_LISTS = 40
_TAILS = 6
_WARM_UP_S = 3.0
_READINESS_PAUSE_S = 0.2
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Load:
    """What A sends, `_CONCURRENT` times at once: one path and query below its account, with each of its tokens in turn."""

    name: str
    path: str = ""
    query: tuple[tuple[str, str], ...] = ()
    tokens: int = 1
    wrong_tokens: bool = False


LOADS = (
    # No index serves this filter, and no record has this address.
    Load("scans of 30 days by an address", query=(("actor_ip_address", "192.0.2.1"),)),
    Load("the same with 30 tokens of the account", query=(("actor_ip_address", "192.0.2.1"),), tokens=30),
    Load("summaries of 30 days", "/summary", (("bucket", "day"), ("by", "actor_id"))),
    Load("pages of 1,000 records", query=(("limit", "1000"),)),
    Load("exports as CSV", "/export", (("format", "csv"),)),
    Load("wrong tokens", wrong_tokens=True),
)


@dataclass
class Noticed:
    """What B and `/readyz` were answered: statuses, and milliseconds of each list and of each `/readyz`."""

    lists: Counter[int] = field(default_factory=Counter)
    tails: Counter[int] = field(default_factory=Counter)
    ready: Counter[int] = field(default_factory=Counter)
    list_ms: list[float] = field(default_factory=list)
    ready_ms: list[float] = field(default_factory=list)

    def line(self, name: str, load: Counter[int]) -> str:
        cells = [
            name,
            f"{self.lists[200]} of {self.lists.total()}",
            f"{_rank(self.list_ms, 0.5):.0f}",
            f"{_rank(self.list_ms, 0.99):.0f}",
            f"{self.tails[200]} of {self.tails.total()}",
            f"{self.ready[200]} of {self.ready.total()}",
            f"{_rank(self.ready_ms, 0.5):.0f}",
            f"{max(self.ready_ms):.0f}",
            ", ".join(f"{count:,} with {status}" for status, count in sorted(load.items())) or "none",
        ]
        return f"| {' | '.join(cells)} |"


def _rank(values: Sequence[float], rank: float) -> float:
    return sorted(values)[min(int(len(values) * rank), len(values) - 1)]


@dataclass(frozen=True)
class Target:
    """The server, the whole time range of the log, and the tokens: those of A's account, and B's."""

    origin: str
    since: str
    before: str
    of_a: tuple[str, ...]
    of_b: str

    def url(self, rank: int, path: str = "") -> str:
        return f"{self.origin}/client/v4/accounts/{account_id(rank)}/logs/audit{path}"


async def _send(target: Target, load: Load, number: int, stop: Event, found: Counter[int]) -> None:
    token = target.of_a[number % load.tokens]
    query = httpx.QueryParams([("since", target.since), ("before", target.before), *load.query])
    url = f"{target.url(0, load.path)}?{query}"
    async with httpx.AsyncClient(timeout=60) as client:
        while not stop.is_set():
            sent = secrets.token_urlsafe(32) if load.wrong_tokens else token
            with contextlib.suppress(httpx.TransportError):
                headers = {"Authorization": f"Bearer {sent}"}
                async with client.stream("GET", url, headers=headers) as answer:
                    async for _ in answer.aiter_raw():
                        if stop.is_set():
                            break
                found[answer.status_code] += 1
                if answer.status_code in {429, 503}:
                    # A client that heeds no `Retry-After`, and is no endless loop either.
                    await asyncio.sleep(0.1)


async def _send_all(target: Target, load: Load, stop: Event) -> Counter[int]:
    found: Counter[int] = Counter()
    await asyncio.gather(*(_send(target, load, number, stop, found) for number in range(_CONCURRENT)))
    return found


def _load_process(
    target: Target,
    load: Load,
    started: Event,
    stop: Event,
    results: multiprocessing.SimpleQueue[Counter[int]],
) -> None:
    started.set()
    results.put(asyncio.run(_send_all(target, load, stop)))


async def _timed(answered: Awaitable[int], found: Counter[int], times_ms: list[float]) -> None:
    began = time.perf_counter()
    found[await answered] += 1
    times_ms.append((time.perf_counter() - began) * 1000)


async def _lists(client: httpx.AsyncClient, target: Target, noticed: Noticed, lists: int) -> None:
    async def one() -> int:
        query = {"since": target.since, "before": target.before, "limit": "100"}
        return (await client.get(target.url(5), params=query)).status_code

    for _ in range(lists):
        await _timed(one(), noticed.lists, noticed.list_ms)


async def _tails(client: httpx.AsyncClient, target: Target, noticed: Noticed) -> None:
    for _ in range(_TAILS):
        async with client.stream("GET", target.url(5, "/tail")) as answer:
            noticed.tails[answer.status_code] += 1


async def _readiness(client: httpx.AsyncClient, target: Target, noticed: Noticed) -> None:
    async def one() -> int:
        return (await client.get(f"{target.origin}/readyz")).status_code

    while True:
        await _timed(one(), noticed.ready, noticed.ready_ms)
        await asyncio.sleep(_READINESS_PAUSE_S)


async def notice(target: Target, lists: int = _LISTS) -> Noticed:
    """Return what B and `/readyz` are answered now."""
    noticed = Noticed()
    headers = {"Authorization": f"Bearer {target.of_b}"}
    async with httpx.AsyncClient(timeout=60, headers=headers) as client:
        asking = asyncio.create_task(_readiness(client, target, noticed))
        await _lists(client, target, noticed, lists)
        await _tails(client, target, noticed)
        asking.cancel()
    return noticed


async def under(target: Target, load: Load, lists: int = _LISTS, warm_up_s: float = _WARM_UP_S) -> str:
    """Return the line of one load."""
    started, stop, results = _CONTEXT.Event(), _CONTEXT.Event(), _CONTEXT.SimpleQueue()
    arguments = (target, load, started, stop, results)
    process = _CONTEXT.Process(target=_load_process, args=arguments, daemon=True)
    process.start()
    await asyncio.to_thread(started.wait)
    await asyncio.sleep(warm_up_s)
    noticed = await notice(target, lists)
    stop.set()
    sent = await asyncio.to_thread(results.get)
    process.join()
    return noticed.line(load.name, sent)


@contextmanager
def _served(database: AuditDatabase) -> Iterator[str]:
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="auditap-bench-") as data_dir:
        environment = {
            **os.environ,
            "AUDITAP_DATA_DIR": data_dir,
            "AUDITAP_LOG_LEVEL": "error",
            "AUDITAP_POSTGRES__READER_DSN": database.reader_dsn,
            "AUDITAP_API__ADDRESS__PORT": str(port),
            # What a token may send at once is another limit, which this does not measure.
            "AUDITAP_API__REQUESTS_BURST": "1000000",
        }
        with subprocess.Popen([sys.executable, "-m", "auditap", "serve"], env=environment) as process:
            try:
                _await_ready(origin)
                yield origin
            finally:
                process.terminate()


def _await_ready(origin: str) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{origin}/readyz", timeout=10).status_code == 200:
                return
        time.sleep(0.1)
    raise TimeoutError("the log API did not become ready")


@asynccontextmanager
async def serving(database: AuditDatabase, since_ms: int, before_ms: int) -> AsyncIterator[Target]:
    """Serve a filled database in a process of its own."""
    until = datetime.now(UTC) + timedelta(days=1)
    async with administrator(database.admin_dsn) as connection:

        async def token(rank: int) -> str:
            return (await create_token(connection, "bench", [account_id(rank)], list(Permission), until))[1]

        of_a, of_b = tuple([await token(0) for _ in range(_CONCURRENT)]), await token(5)
    with _served(database) as origin:
        yield Target(origin, rfc3339_ms(since_ms), rfc3339_ms(before_ms), of_a, of_b)


async def run(
    folder: Path, seed: Seed, loads: Sequence[Load] = LOADS, say: Callable[[str], None] = print
) -> str:
    """Return the report."""
    lines: list[str] = []

    def add(line: str) -> None:
        say(line)
        lines.append(line)

    async with filled_database(folder, seed) as database:
        end_ms = await last_ms(database)
        async with serving(database, end_ms - seed.days * DAY_MS, end_ms) as target:
            await notice(target)  # what was just started is not measured
            add((await notice(target)).line("nothing", Counter()))
            for load in loads:
                add(await under(target, load))
            add((await notice(target)).line("nothing again", Counter()))
    return "\n".join([*_head(seed), *lines, ""])


def _head(seed: Seed) -> list[str]:
    load = os.getloadavg()
    made = (
        f"{seed.records:,} records over {seed.days} days, {seed.accounts} accounts by Zipf's law. {os.cpu_count()} cores"
        f" ({platform.machine()}) for the server, Postgres and all clients, Python {platform.python_version()}; load average"
        f" {load[0]:.1f} at the end, other work on the machine included."
    )
    measured = (
        f"Token A, of the largest account, has {_CONCURRENT} requests under way at all times. Token B lists 100 records of another"
        f" account, {_LISTS} times one after the other, then opens a tail {_TAILS} times. `/readyz` is asked"
        f" {1 / _READINESS_PAUSE_S:.0f} times a second. Milliseconds; ok: answered 200."
    )
    return [
        "# The log API under a noisy neighbour",
        "",
        made,
        "",
        measured,
        "",
        "| A sends | B's lists ok | median | p99 | B's tails ok | `/readyz` ok | median | longest | answers to A |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--dir", type=Path, required=True)
    options.add_argument("--records", type=int, default=3_000_000)
    options.add_argument("--days", type=int, default=30)
    options.add_argument("--accounts", type=int, default=500)
    options.add_argument("--results", type=Path, default=RESULTS)
    asked = options.parse_args()
    asked.dir.mkdir(parents=True, exist_ok=True)
    end_ms = int(time.time() * 1000) // DAY_MS * DAY_MS
    seed = Seed(asked.records, asked.days, asked.accounts, end_ms)
    asked.results.write_text(asyncio.run(run(asked.dir, seed)))


if __name__ == "__main__":
    main()
