"""One system for all fault tests: each hurts it, and leaves it as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.faults.faults import Inflict, healed, ready
from tests.faults.ledger import Count, count_when_stored
from tests.faults.load import Load
from tests.faults.system import System, running

Weather = Callable[..., Awaitable[Count]]
_BEFORE, _AFTER = 200, 200
_ANSWER_S_MAX = 120
_COUNT = "count"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == _COUNT:
                terminalreporter.write_line(str(value))


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


@pytest.fixture(scope="package")
async def running_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    # For this folder alone (which is a package for that reason): nothing of it runs beside other tests.
    async with running(System(tmp_path_factory.mktemp("faults"))) as system:
        yield system


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Count], None]:
    """Say a count at the end of the run."""

    def say(found: Count) -> None:
        request.node.user_properties.append((_COUNT, f"{request.node.name}: {found}"))

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
        found = await count_when_stored(system, load)
        report(found)
        assert found.balanced, found
        assert not load.refused
        return found

    return under


@pytest.fixture
async def system(running_system: System) -> System:
    """The system, with every part ready; what a test before left in force is taken back."""
    try:
        await ready(running_system)
    except AssertionError:
        await healed(running_system)
        await ready(running_system)
    running_system.loads.clear()
    return running_system
