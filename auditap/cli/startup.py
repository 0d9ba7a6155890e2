"""What commands do first: read the settings, configure the logs, start the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import uvloop

from auditap.runtime.descriptors import raise_descriptor_limit
from auditap.runtime.lifecycle import stop_on_signals
from auditap.runtime.logs import configure_logs
from auditap.settings import Settings, load_settings


def configured_settings() -> Settings:
    """Return the settings, with logs as they say. Raises StartupError."""
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    return settings


def run_process(make: Callable[[Settings], Callable[[asyncio.Event], Awaitable[None]]]) -> None:
    """Run what `make` returns of the settings until SIGINT or SIGTERM. Raises StartupError."""
    settings = configured_settings()
    raise_descriptor_limit()

    async def run() -> None:
        await make(settings)(stop_on_signals())

    uvloop.run(run())
