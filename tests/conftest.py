"""The real servers of a test run, and the rules every test is held to."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings

from auditap.runtime.embedded_postgres import EmbeddedPostgres
from ingestor.postgres_store import PostgresStore
from tests.audit_database import AuditDatabase, drop_database, migrated, with_roles
from tests.kafka_broker import KafkaBroker, KafkaUnavailableError, fetch_jars
from tests.whole_files import WholeFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from xdist.remote import Producer

_RUNNING_KAFKA = "AUDITAP_TEST_KAFKA"
_RUNNING_POSTGRES = "AUDITAP_TEST_POSTGRES"
_REAL_SPECS = "AUDITAP_REAL_SPECS"
_CASES = "AUDITAP_CASES"
_OWN_BROKER_FIXTURES = {"own_kafka", "running_system", "spooling_system"}
_BROKER_FIXTURES = _OWN_BROKER_FIXTURES | {"kafka_bootstrap"}

_NO_KAFKA = "no Kafka"
_SHARED_SESSION_MS = 120_000
"""The broker that tests share is never killed, and may stand still for long on a busy machine."""
_SLOW_FOLDERS = (
    "faults",
    "e2e",
    "gateways",
    "frameworks",
    "cases",
    "canary",
    "property",
    "fuzz",
    "clients",
    "oracles",
    "contract",
)
"""Begun first where several workers share a run, so that none of them ends it alone."""

_kafka_is_missing = pytest.StashKey[str]()
_shared_broker = pytest.StashKey[KafkaBroker]()
_shared_folder = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    # A test run that is asked to end takes its servers with it, as it does on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Start one broker for all workers of a parallel run; each of them has a Postgres of its own."""
    if os.environ.get(_RUNNING_KAFKA):
        return
    config.stash[_shared_folder] = folder = tempfile.TemporaryDirectory(prefix="auditap-kafka-")
    try:
        broker = KafkaBroker(Path(folder.name), _SHARED_SESSION_MS)
        asyncio.run(broker.start())
    except KafkaUnavailableError as unavailable:
        config.stash[_kafka_is_missing] = str(unavailable)
    else:
        config.stash[_shared_broker] = broker
        os.environ[_RUNNING_KAFKA] = broker.bootstrap


def pytest_unconfigure(config: pytest.Config) -> None:
    broker = config.stash.get(_shared_broker, None)
    if broker is not None:
        del os.environ[_RUNNING_KAFKA]
        asyncio.run(broker.kill())
    folder = config.stash.get(_shared_folder, None)
    if folder is not None:
        folder.cleanup()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> WholeFiles:
    return WholeFiles(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        names = getattr(item, "fixturenames", ())
        if _BROKER_FIXTURES & set(names):
            item.add_marker(pytest.mark.kafka)
        if "real_specs" in names:
            item.add_marker(pytest.mark.real_specs)
    if _is_worker(config):
        items.sort(key=lambda item: _place_in_run(item.path.relative_to(tests).parts[0]))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name compressed bytes by their argument: gzip writes the time into them, and workers must agree on all names."""
    return argname if isinstance(val, bytes) and b"\x1f\x8b" in val else None


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _place_in_run(folder: str) -> int:
    return _SLOW_FOLDERS.index(folder) if folder in _SLOW_FOLDERS else len(_SLOW_FOLDERS)


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
            item.add_marker(pytest.mark.skip(reason=_NO_KAFKA))
        session.config.stash[_kafka_is_missing] = str(unavailable)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _kafka_is_missing in session.config.stash and _in_ci() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _kafka_is_missing in config.stash:
        verdict = "under CI=true this is a failure: " if _in_ci() else ""
        skipped = sum(_NO_KAFKA in str(each.longrepr) for each in terminalreporter.stats.get("skipped", []))
        terminalreporter.write_line(
            f"{verdict}{skipped} tests with Apache Kafka were skipped: {config.stash[_kafka_is_missing]}",
            red=_in_ci(),
            yellow=not _in_ci(),
        )


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true"}


# HYPOTHESIS_PROFILE=fuzz asks for the long runs; a test that sets its own number of examples keeps it.
# How long an example takes to draw says something of the machine, and nothing of the code.
_OF_TIME = [HealthCheck.too_slow]
settings.register_profile(
    "default", max_examples=300, deadline=None, derandomize=_in_ci(), suppress_health_check=_OF_TIME
)
settings.register_profile("fast", max_examples=30, deadline=None, suppress_health_check=_OF_TIME)
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
    suppress_health_check=_OF_TIME,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session", autouse=True)
def _without_the_settings_of_the_developer() -> Iterator[None]:
    """Tests neither read nor pass on the variables with which a developer runs auditap."""
    with pytest.MonkeyPatch.context() as changed:
        for name in list(os.environ):
            is_of_tests = name in {_REAL_SPECS, _CASES} or name.startswith("AUDITAP_TEST_")
            if name.startswith("AUDITAP_") and not is_of_tests:
                changed.delenv(name)
        yield


@pytest.fixture(autouse=True)
async def _no_task_outlives_its_test() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leaked:
        # What is already on its way out may finish.
        _, leaked = await asyncio.wait(leaked, timeout=120)
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
    async with KafkaBroker(tmp_path_factory.mktemp("kafka"), _SHARED_SESSION_MS) as broker:
        yield broker.bootstrap


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def bootstrap(request: pytest.FixtureRequest) -> str | None:
    """The log of a whole pipeline: a broker's address, or None for the embedded log."""
    if request.param == "embedded":
        return None
    address: str = request.getfixturevalue("kafka_bootstrap")
    return address


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


@asynccontextmanager
async def _new_database(postgres: str, template: str = "template1") -> AsyncIterator[str]:
    """Yield the superuser's address of a copy of `template`, which is dropped at the end."""
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        await drop_database(connection, name)
    finally:
        await connection.close()


@pytest.fixture
async def database(postgres: str) -> AsyncIterator[str]:
    """Superuser's address of a fresh, empty database of this test's own. Roles are shared by all databases."""
    async with _new_database(postgres) as address:
        yield address


@pytest.fixture(scope="session")
async def migrated_template(postgres: str) -> AsyncIterator[str]:
    """Name of a migrated database that no test connects to: to copy it takes a fraction of the time of migrating."""
    async with _new_database(postgres) as address:
        await migrated(address)
        name = urlsplit(address).path[1:]
        await _wait_until_closed(postgres, name)
        yield name


async def _wait_until_closed(postgres: str, name: str) -> None:
    # Postgres copies no database that a session is connected to, and ends a session shortly after its client.
    connection = await asyncpg.connect(postgres)
    try:
        async with asyncio.timeout(120):
            while await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", name):
                await asyncio.sleep(0.01)
    finally:
        await connection.close()


@pytest.fixture
async def audit_database(postgres: str, migrated_template: str) -> AsyncIterator[AuditDatabase]:
    """A migrated database of this test's own."""
    async with _new_database(postgres, migrated_template) as address:
        yield with_roles(address)


@pytest.fixture
async def postgres_store(audit_database: AuditDatabase) -> AsyncIterator[PostgresStore]:
    """The ingestor's store, with the ingestor's role."""
    store = await PostgresStore.connect(
        audit_database.writer_dsn, connections_max=4, command_timeout_ms=60_000
    )
    yield store
    await store.close()


@pytest.fixture(scope="session")
def real_specs() -> Path:
    """Folder of real OpenAPI documents; without one the test is skipped."""
    folder = os.environ.get(_REAL_SPECS)
    if not folder:
        pytest.skip(f"{_REAL_SPECS} names no folder of real OpenAPI documents")
    return Path(folder)
