"""One step on the database as its administrator, for a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from auditap.cli.startup import configured_settings
from auditap.database.connection import administrator
from auditap.settings import admin_dsn

_T = TypeVar("_T")


def as_administrator(act: Callable[[Any], Awaitable[_T]]) -> _T:
    """Connect as the administrator, call `act` and return its result. Raises StartupError, RetryableError."""
    settings = configured_settings()

    async def run() -> _T:
        async with administrator(admin_dsn(settings)) as connection:
            return await act(connection)

    return asyncio.run(run())
