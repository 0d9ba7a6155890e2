"""A served log for the clients, and the clients where they can be installed."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from auditap.database.connection import administrator
from tests.audit_database import drop_database, with_roles
from tests.clients.installed import UnavailableError
from tests.clients.reading import Client
from tests.clients.served_log import ServedLog

# Its assertions say what they compared, as those of a test file do.
pytest.register_assert_rewrite("tests.clients.sdk_contract")

_WAITS_AFTER_REQUESTS = "2"
GetClient = Callable[[], Client]


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Client:
    """The client that a test names by the function that returns it; skipped where it cannot be installed, failed in CI."""
    get: GetClient = request.param
    try:
        return get()
    except UnavailableError as unavailable:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(f"under CI=true this is a failure: {unavailable}", pytrace=False)
        pytest.skip(str(unavailable))


@asynccontextmanager
async def _serving(postgres: str, template: str, folder: Path, **settings: str) -> AsyncIterator[ServedLog]:
    name = f"clients_{uuid.uuid4().hex}"
    async with administrator(postgres) as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        database = with_roles(urlsplit(postgres)._replace(path=f"/{name}").geturl())
        async with administrator(database.admin_dsn) as owner:
            served = ServedLog(database, owner, folder)
            try:
                await served.start(**settings)
                yield served
            finally:
                await served.stop()
        await drop_database(connection, name)


@pytest.fixture(scope="session")
async def served(
    postgres: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServedLog]:
    """A log that is shared: every test has an account of its own. A part of it is missing, as a gap says."""
    async with _serving(postgres, migrated_template, tmp_path_factory.mktemp("served")) as log:
        await log.add_gap()
        yield log


@pytest.fixture(scope="session")
async def hurried(
    postgres: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServedLog]:
    """A log whose API tells each token to wait after a few requests."""
    folder = tmp_path_factory.mktemp("hurried")
    limit = {"AUDITAP_API__REQUESTS_BURST": _WAITS_AFTER_REQUESTS}
    async with _serving(postgres, migrated_template, folder, **limit) as log:
        yield log
