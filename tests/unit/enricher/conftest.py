from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.lookup import NameService, running


@pytest.fixture(scope="module")
async def running_service() -> AsyncIterator[NameService]:
    async with running(NameService()) as service:
        yield service


@pytest.fixture
def service(running_service: NameService) -> NameService:
    """A real HTTP service on loopback that knows nothing yet."""
    running_service.answers.clear()
    running_service.requests.clear()
    running_service.behaviour = None
    running_service.under_way_max = 0
    return running_service
