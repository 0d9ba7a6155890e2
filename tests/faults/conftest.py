"""One system for all fault tests: each hurts it, and leaves it as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.faults import Inflict, healed, ready
from tests.faults.ledger import Count, settled
from tests.faults.load import Load
from tests.faults.system import System

Weather = Callable[..., Awaitable[Count]]
_BEFORE, _AFTER = 200, 200
_READY_S_MAX = 15
_ANSWER_S_MAX = 5
_counts = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = Path(__file__).parent
    # The first test of a run waits for Kafka, Postgres and four processes to start.
    for item in items:
        if item.path.parent == ours:
            item.add_marker(pytest.mark.timeout(300))
    # The system runs until the run ends: nothing else is tested beside it.
    items.sort(key=lambda item: item.path.parent == ours)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_counts, []):
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
async def _no_task_outlives_its_test() -> AsyncIterator[None]:
    """As everywhere, but for what serves the system's connections, which outlive a test as the system does."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    after = asyncio.all_tasks() - before - {asyncio.current_task()}
    after = {task for task in after if not task.get_name().startswith("proxy-")}
    if after:
        # A slow answer to a look-up that nobody waits for any more is given all the same.
        _, after = await asyncio.wait(after, timeout=_ANSWER_S_MAX)
    assert not sorted(map(repr, after))


@pytest.fixture(scope="session")
async def running_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    system = System(tmp_path_factory.mktemp("faults"))
    try:
        await system.start()
        yield system
    finally:
        await system.stop()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Count], None]:
    """Say a count at the end of the run."""

    def say(found: Count) -> None:
        request.config.stash.setdefault(_counts, []).append(f"{request.node.name}: {found}")

    return say


@pytest.fixture
async def weather(system: System, report: Callable[[Count], None]) -> Weather:
    """Put the system under a fault while captures come in, and count: `await weather(fault, lasting_s)`."""

    async def under(inflict: Inflict, lasting_s: float, load: Load | None = None) -> Count:
        load = load or system.load()
        await load.start()
        try:
            await load.accepts(_BEFORE)
            async with inflict(system):
                await asyncio.sleep(lasting_s)
            await load.accepts(_AFTER)
            await load.finish()
        finally:
            # One that failed does not go on beside the next test.
            await load.abandon()
        found = await settled(system, load)
        report(found)
        assert found.balanced, found
        assert not load.refused
        return found

    return under


@pytest.fixture
async def system(running_system: System) -> System:
    """The system, with every part ready; what a test before left in force is taken back."""
    try:
        await ready(running_system, _READY_S_MAX)
    except AssertionError:
        await healed(running_system)
        await ready(running_system)
    return running_system
