"""Clocks that are wrong for a while: of a tap, the collector, an ingestor, the database."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx

from auditap.database.connection import administrator
from tests.e2e.pipeline import Process, until
from tests.faults.faults import Fault, Inflict, Part, ready
from tests.faults.system import System, wrong_clock
from tests.ports import free_port

HOUR_S = 3_600
_COMPARED = frozenset({Part.INGESTORS, Part.POSTGRES})
"""Whose clocks ingestors compare."""
LATE_TAP_ACCOUNTS = 4
_LATE_TAP_PER_S = 50
_NOTICED_S_MAX = 180


def tap(ahead_s: int) -> Inflict:
    """One more tap sends for a while, and its clock is wrong all the time."""

    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        load = system.load(
            rate_per_s=_LATE_TAP_PER_S, clock_ahead_ms=ahead_s * 1000, accounts=LATE_TAP_ACCOUNTS
        )
        await load.start()
        try:
            yield
            await load.finish()
        finally:
            await load.abandon()

    return inflict


def collector(ahead_s: int) -> Inflict:
    """A collector whose clock is wrong takes the place of the one whose clock is right."""

    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        await system.collector.stop()
        await system.pipeline.start_collector(**wrong_clock(ahead_s))
        yield
        await system.collector.stop()
        await system.pipeline.start_collector()

    return inflict


def ingestor(ahead_s: int) -> Inflict:
    """One whose clock is wrong takes the place of one of two, until it has events and waits with them."""

    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        await system.end_ingestor(0, signal.SIGTERM)
        port = free_port()
        wrong = system.pipeline.process(
            "ingest", AUDITAP_INGEST__ADDRESS__PORT=str(port), **wrong_clock(ahead_s)
        )
        await wrong.start(None)
        wrong.port = port
        try:
            await until(lambda: _waits(wrong), _NOTICED_S_MAX, "events at the wrong clock", wrong.log)
            yield
            assert await _waits(wrong)
            assert await wrong.metric("auditap_records_stored_total") == 0
            assert not await wrong.ready()
        finally:
            assert await wrong.stop() == 0
        await system.pipeline.start_ingestor()

    return inflict


async def _waits(ingestor: Process) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (
            await ingestor.metric("auditap_batches_in_flight") > 0
            and await ingestor.metric("auditap_ingest_clocks_apart") == 1
        )
    return False


def database(ahead_s: int) -> Inflict:
    """The database's clock jumps, and at the end back: whatever auditap asks of it is answered so many seconds wrong.

    The server's own clock stays, for the times at which it says that a transaction was committed.
    """

    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        try:
            await _set_database_clock(system, ahead_s)
            yield
            await until(lambda: _all_wait(system), _NOTICED_S_MAX, "every ingestor notices")
        finally:
            await _set_database_clock(system, 0)
        await ready(system)

    return inflict


async def _all_wait(system: System) -> bool:
    return all([await each.metric("auditap_ingest_clocks_apart") == 1 for each in system.ingestors])


async def _set_database_clock(system: System, ahead_s: int) -> None:
    """Set what ingestors compare their clocks with, and what the gap ledger goes by."""
    async with asyncio.timeout(_NOTICED_S_MAX):
        while True:
            try:
                async with administrator(system.postgres.dsn()) as admin, admin.transaction():
                    await admin.execute(
                        "CREATE OR REPLACE FUNCTION auditap.now_ms() RETURNS bigint LANGUAGE sql VOLATILE"
                        f" AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + {ahead_s * 1000} $$"
                    )
            except asyncpg.PostgresError:
                await asyncio.sleep(0.2)
            else:
                return


FAULTS = (
    Fault("a tap an hour ahead", tap(HOUR_S), frozenset({Part.TAP}), 3, 15),
    Fault("a tap an hour behind", tap(-HOUR_S), frozenset({Part.TAP}), 3, 15),
    Fault("the collector's clock an hour ahead", collector(HOUR_S), frozenset({Part.COLLECTOR}), 2, 10),
    Fault("the collector's clock an hour behind", collector(-HOUR_S), frozenset({Part.COLLECTOR}), 2, 10),
    Fault("an ingestor's clock an hour ahead", ingestor(HOUR_S), _COMPARED, 1, 5),
    Fault("an ingestor's clock an hour behind", ingestor(-HOUR_S), _COMPARED, 1, 5),
    Fault("the database's clock an hour ahead", database(HOUR_S), _COMPARED, 2, 10),
    Fault("the database's clock an hour behind", database(-HOUR_S), _COMPARED, 2, 10),
)
