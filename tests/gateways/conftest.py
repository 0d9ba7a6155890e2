"""Runs each gateway of this folder once for all tests of its class."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.audit_database import AuditDatabase
from tests.gateways.beside import served_beside
from tests.gateways.collected import TOKEN, collecting
from tests.gateways.contract import Bench, GatewayContract
from tests.gateways.faults import FaultBench, FaultContract, ReceiverFaultContract, fault_bench
from tests.gateways.gateway import Gateway, Place
from tests.gateways.receiving import IN_MEMORY
from tests.gateways.upstream import running_upstream


@pytest_asyncio.fixture(scope="class")
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The gateway that the test's class names, in front of an upstream, with a collector beside it."""
    contract = request.cls
    assert contract is not None
    assert issubclass(contract, GatewayContract)
    gateway = contract.gateway
    with (
        tempfile.TemporaryDirectory(prefix="auditap-") as folder,
        served_beside(running_upstream()) as upstream,
        served_beside(collecting(Path(folder))) as collected,
    ):
        own = Path(tempfile.mkdtemp(dir=folder))
        place = Place(own, upstream.port, collected.socket, collected.port, TOKEN)
        async with gateway.running(place) as running:
            yield Bench(gateway, running, upstream, collected)


@pytest_asyncio.fixture
async def faults(request: pytest.FixtureRequest, audit_database: AuditDatabase) -> AsyncIterator[FaultBench]:
    """The gateway that the test's class names, with a collector in a process of its own."""
    contract = request.cls
    assert contract is not None
    assert issubclass(contract, FaultContract)
    async with _fault_bench(contract.gateway, audit_database, has_receiver=False) as bench:
        yield bench


@pytest_asyncio.fixture
async def receiver_faults(
    request: pytest.FixtureRequest, audit_database: AuditDatabase
) -> AsyncIterator[FaultBench]:
    """The gateway that the test's class names, with a collector and its receiver in a process of their own."""
    contract = request.cls
    assert contract is not None
    assert issubclass(contract, ReceiverFaultContract)
    async with _fault_bench(contract.gateway, audit_database, has_receiver=True) as bench:
        yield bench


@asynccontextmanager
async def _fault_bench(
    gateway: Gateway, database: AuditDatabase, *, has_receiver: bool
) -> AsyncIterator[FaultBench]:
    # Receivers of files take them in memory alone.
    parent = IN_MEMORY if has_receiver else None
    with (
        tempfile.TemporaryDirectory(prefix="auditap-", dir=parent) as folder,
        served_beside(running_upstream()) as upstream,
    ):
        async with fault_bench(gateway, upstream, Path(folder), database, has_receiver=has_receiver) as bench:
            yield bench
