"""One step on the database as its administrator, from the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from auditap.logs import configure_logs
from auditap.settings import admin_dsn, load_settings

_T = TypeVar("_T")


def as_administrator(act: Callable[[Any], Awaitable[_T]]) -> _T:
    """Return what `act` returns of a connection. Raises StartupError, RetryableError."""
    from auditap.database import administrator  # noqa: PLC0415  the command line starts without its parts

    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)

    async def run() -> _T:
        async with administrator(admin_dsn(settings)) as connection:
            return await act(connection)

    return asyncio.run(run())
