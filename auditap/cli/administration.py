"""One step on the database as its administrator or as an operator, for a command."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from auditap.cli.startup import configured_settings
from auditap.database.connection import Connection, administrator
from auditap.settings import Settings, admin_dsn
from schemas.postgres_refusals import ADMINISTRATOR, OPERATOR

_T = TypeVar("_T")


def as_administrator(act: Callable[[Any], Awaitable[_T]]) -> _T:
    """Connect as the administrator, call `act` and return its result. Raises StartupError, RetryableError."""
    return _run(administrator(admin_dsn(configured_settings())), act)


def as_operator(act: Callable[[Any], Awaitable[_T]]) -> _T:
    """Like `as_administrator`, with the operator's login if there is one."""
    return _run(operator(configured_settings()), act)


def operator(settings: Settings) -> AbstractAsyncContextManager[Connection]:
    """Return a connection with the login that `operator_dsn` has. Raises as `administrator`."""
    login = ADMINISTRATOR if settings.postgres.operator_dsn is None else OPERATOR
    return administrator(operator_dsn(settings), login=login)


def operator_dsn(settings: Settings) -> str:
    """Return the DSN of the operator's login, the administrator's if none is set. Raises StartupError where there is neither."""
    given = settings.postgres.operator_dsn
    return given.get_secret_value() if given is not None else admin_dsn(settings)


def current_user() -> str:
    """Return the name of the user who runs the command; the uid where it has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _run(
    connecting: AbstractAsyncContextManager[Connection], act: Callable[[Connection], Awaitable[_T]]
) -> _T:
    async def run() -> _T:
        async with connecting as connection:
            return await act(connection)

    return asyncio.run(run())
