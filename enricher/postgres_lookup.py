"""Look-ups by a query: the enricher's only module on asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

import asyncpg

from enricher.answer import compile_fields
from enricher.breaker import Breaker
from enricher.config import QueryConfig
from enricher.keys import compile_keys
from enricher.ports import Absent, Found, Kind
from schemas.errors import RetryableError

_ABSENT = Absent()
_Answer = Found | Absent | RetryableError
_NO_ANSWER = (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class PostgresLookUp:
    """`LookUp` by a query of each kind, in sessions that may only read. Keys that are asked for at the same time go
    together. To be used by one event loop, and stopped at the end.
    """

    def __init__(
        self,
        configs: Iterable[QueryConfig],
        breakers: Callable[[str, QueryConfig], Breaker] = lambda who, config: Breaker(who, config.breaker),
    ) -> None:
        self._directories = {config.kind: _Directory(config, breakers) for config in configs}

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        """See `LookUp`. `kind` is one of those configured."""
        return await self._directories[kind].look_up(key)

    async def stop(self) -> None:
        """Give up what is under way and close the connections."""
        for directory in self._directories.values():
            await directory.stop()


class _Directory:
    """One kind's query."""

    def __init__(self, config: QueryConfig, breakers: Callable[[str, QueryConfig], Breaker]) -> None:
        self._config = config
        self._who = f"the {config.kind} query"
        self._is_key = compile_keys(self._who, config.key_syntax, config.key_chars_max)
        self._breaker = breakers(self._who, config)
        self._read_fields = compile_fields(self._who, tuple(config.columns), config.value_chars_max)
        self._statement = _bounded(config)
        self._waiting: dict[str, list[asyncio.Future[Found | Absent]]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._is_gathering = False
        self._pool: asyncpg.Pool | None = None

    async def look_up(self, key: str) -> Found | Absent:
        if not self._is_key(key):
            return _ABSENT
        self._breaker.check()
        answer: asyncio.Future[Found | Absent] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(answer)
        self._start_worker()
        return await answer

    def _start_worker(self) -> None:
        """Start one where there is room, unless one is about to take whoever waits."""
        if not self._is_gathering and len(self._workers) < self._config.connections_max:
            self._is_gathering = True
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        """Ask until nobody waits."""
        # Whoever asks in the same turn of the loop goes along.
        await asyncio.sleep(0)
        self._is_gathering = False
        while self._waiting:
            keys = list(islice(self._waiting, self._config.keys_max))
            asking = {key: self._waiting.pop(key) for key in keys}
            if self._waiting:
                self._start_worker()
            try:
                answers: Mapping[str, _Answer] = await self._breaker.call(lambda keys=keys: self._ask(keys))  # type: ignore[misc]
            except RetryableError as error:
                answers = dict.fromkeys(keys, error)
            except asyncio.CancelledError:
                _give(asking, dict.fromkeys(keys, RetryableError(f"{self._who} was stopped")))
                raise
            _give(asking, answers)

    async def _ask(self, keys: Sequence[str]) -> Mapping[str, _Answer]:
        """Return what the query found of each key. Raises RetryableError where its rows cannot be believed."""
        found: dict[str, _Answer] = {}
        for row in await self._rows(keys):
            key, *values = row
            if key is None or key not in keys or key in found:
                raise RetryableError(f"{self._who} answered about what was not asked")
            found[key] = self._believed(values)
        return {key: found.get(key, _ABSENT) for key in keys}

    def _believed(self, values: Sequence[str | None]) -> _Answer:
        try:
            return self._read_fields(dict(zip(self._config.columns, values, strict=True)))
        except RetryableError as error:
            return error

    async def _rows(self, keys: Sequence[str]) -> Sequence[Sequence[str | None]]:
        timeout_s = self._config.timeout_ms / 1000
        try:
            async with (
                asyncio.timeout(timeout_s),
                (await self._opened()).acquire() as connection,
                connection.transaction(readonly=True),
            ):
                rows = await connection.fetch(self._statement, keys, len(keys) + 1)
                return [tuple(row.values()) for row in rows]
        except TimeoutError:
            trouble = "did not answer in time"
        except asyncpg.QueryCanceledError:
            trouble = "took too long"
        except (asyncpg.SyntaxOrAccessError, asyncpg.ReadOnlySQLTransactionError):
            trouble = "is refused by its database"
        except _NO_ANSWER:
            trouble = "cannot be asked"
        raise RetryableError(f"{self._who} {trouble}")

    async def _opened(self) -> asyncpg.Pool:
        if self._pool is None:
            timeout_ms = str(self._config.timeout_ms)
            self._pool = asyncpg.create_pool(
                self._config.dsn,
                min_size=0,
                max_size=self._config.connections_max,
                timeout=self._config.timeout_ms / 1000,
                server_settings={
                    "application_name": "auditap-enrich",
                    "default_transaction_read_only": "on",
                    "statement_timeout": timeout_ms,
                    "idle_in_transaction_session_timeout": timeout_ms,
                },
            )
            await self._pool
        return self._pool

    async def stop(self) -> None:
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        gone = RetryableError(f"{self._who} was stopped")
        _give(self._waiting, dict.fromkeys(self._waiting, gone))
        self._waiting.clear()
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None


def _bounded(config: QueryConfig) -> str:
    """Return the query inside of a SELECT that bounds its rows and their texts, and that nothing but a SELECT fits in."""
    key = f"left({_quoted(config.key_column)}::text, {config.key_chars_max + 1})"
    values = [
        f"left({_quoted(column)}::text, {config.value_chars_max + 1})" for column in config.columns.values()
    ]
    names = ", ".join(f"{text} AS c{number}" for number, text in enumerate([key, *values]))
    return f"SELECT {names} FROM (\n{config.query}\n) AS found LIMIT $2::bigint"  # noqa: S608  an operator's own SQL


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _give(
    asking: Mapping[str, Iterable[asyncio.Future[Found | Absent]]], answers: Mapping[str, _Answer]
) -> None:
    for key, futures in asking.items():
        answer = answers[key]
        for future in futures:
            if future.done():
                continue  # whoever asked was cancelled
            if isinstance(answer, RetryableError):
                future.set_exception(RetryableError(str(answer)))
            else:
                future.set_result(answer)
