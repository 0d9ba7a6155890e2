"""The real servers of a test run, and the rules every test is held to."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings

from auditap.embedded_postgres import EmbeddedPostgres
from tests.kafka_broker import KafkaBroker, KafkaUnavailableError, fetch_jars

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_RUNNING_KAFKA = "AUDITAP_TEST_KAFKA"
_RUNNING_POSTGRES = "AUDITAP_TEST_POSTGRES"
_REAL_SPECS = "AUDITAP_REAL_SPECS"
_OWN_BROKER_FIXTURES = {"own_kafka", "running_system", "spooling_system"}
_BROKER_FIXTURES = _OWN_BROKER_FIXTURES | {"kafka_bootstrap"}

_kafka_skips = pytest.StashKey[str]()
_kafka_skipped = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    # A test run that is told to end takes its servers with it, as it does on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        names = getattr(item, "fixturenames", ())
        if _BROKER_FIXTURES & set(names):
            item.add_marker(pytest.mark.kafka)
        if "real_specs" in names:
            item.add_marker(pytest.mark.real_specs)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Skip what needs a broker where there can be none; decided here, once, and outside any test's time limit."""
    items = [item for item in session.items if item.get_closest_marker("kafka")]
    if os.environ.get(_RUNNING_KAFKA):
        items = [item for item in items if _OWN_BROKER_FIXTURES & set(getattr(item, "fixturenames", ()))]
    if not items or session.config.option.collectonly:
        return
    try:
        fetch_jars()
    except KafkaUnavailableError as unavailable:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no Kafka"))
        session.config.stash[_kafka_skips] = str(unavailable)
        session.config.stash[_kafka_skipped] = len(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _kafka_skips in session.config.stash and _in_ci() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _kafka_skips in config.stash:
        verdict = "under CI=true this is a failure: " if _in_ci() else ""
        terminalreporter.write_line(
            f"{verdict}{config.stash[_kafka_skipped]} tests with Apache Kafka were skipped: {config.stash[_kafka_skips]}",
            red=_in_ci(),
            yellow=not _in_ci(),
        )


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true"}


# HYPOTHESIS_PROFILE=fuzz asks for the long runs; a test that sets its own number of examples keeps it.
settings.register_profile("default", max_examples=300, deadline=None, derandomize=_in_ci())
settings.register_profile(
    "fuzz", max_examples=10_000, deadline=None, derandomize=_in_ci(), suppress_health_check=list(HealthCheck)
)
# To see a fault is enough: it is not made smaller, and nothing is remembered of it.
settings.register_profile(
    "mutants",
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
async def _no_task_outlives_its_test() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leaked:
        # What is already on its way out may finish.
        _, leaked = await asyncio.wait(leaked, timeout=0.5)
    described = sorted(map(repr, leaked))
    for task in leaked:
        task.cancel()
    if described:
        pytest.fail(f"tasks still running after the test: {described}", pytrace=False)


@pytest.fixture(scope="session")
async def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Address of the run's one Apache Kafka, which makes no topics by itself; asking for it marks a test `kafka`."""
    running = os.environ.get(_RUNNING_KAFKA)
    if running:
        yield running
        return
    async with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.bootstrap


@pytest.fixture
async def own_kafka(tmp_path: Path) -> AsyncIterator[KafkaBroker]:
    """A started broker of this test's own, to be stopped, killed and restarted at will."""
    base_dir = tmp_path / "kafka"
    base_dir.mkdir()
    async with KafkaBroker(base_dir) as broker:
        yield broker


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """A prefix that makes this test's topic and group names its own, e.g. "test_replay-1f3a9c02."."""
    name = re.sub(r"[^a-zA-Z0-9_-]", "-", request.node.name)[:80]
    return f"{name}-{uuid.uuid4().hex[:8]}."


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Superuser's address of the run's one Postgres; tests take `database`."""
    running = os.environ.get(_RUNNING_POSTGRES)
    if running:
        yield running
        return
    # No test pulls the plug of this one.
    settings = {"fsync": "off", "max_connections": "200"}
    async with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), settings=settings) as server:
        yield server.dsn()


@pytest.fixture
async def database(postgres: str) -> AsyncIterator[str]:
    """Superuser's address of a fresh, empty database of this test's own. Roles are shared by all databases."""
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def real_specs() -> Path:
    """Folder of real OpenAPI documents; without one the test is skipped."""
    folder = os.environ.get(_REAL_SPECS)
    if not folder:
        pytest.skip(f"{_REAL_SPECS} names no folder of real OpenAPI documents")
    return Path(folder)
