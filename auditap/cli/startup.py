"""What commands do first: read the settings, configure the logs, start the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvloop

from auditap.runtime.descriptors import raise_descriptor_limit
from auditap.runtime.lifecycle import stop_on_signals
from auditap.runtime.logs import configure_logs
from auditap.settings import Settings, load_settings


def configured_settings(options: Mapping[str, str] | None = None, /, **overrides: Any) -> Settings:
    """Return the settings, with logs as they say. Options and overrides: see `load_settings`. Raises StartupError."""
    settings = load_settings(options, **overrides)
    configure_logs(settings.log_level, settings.log_format)
    return settings


def run_process(
    make: Callable[[Settings], Callable[[asyncio.Event], Awaitable[None]]],
    options: Mapping[str, str] | None = None,
    /,
    **overrides: Any,
) -> None:
    """Run what `make` returns of the settings until SIGINT or SIGTERM. Options and overrides: see `load_settings`. Raises StartupError."""
    settings = configured_settings(options, **overrides)
    raise_descriptor_limit()

    async def run() -> None:
        await make(settings)(stop_on_signals())

    uvloop.run(run())
