"""Lookups by an SQL query: the enricher's only module that uses asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

import asyncpg

from enricher.circuit_breaker import CircuitBreaker
from enricher.config import PostgresLookupConfig
from enricher.key_syntax import KEY_CHARS_MAX, compile_key_check
from enricher.ports import NEVER_AN_ID, Absent, Found, Kind
from enricher.response import VALUE_CHARS_MAX, compile_fields_reader
from schemas.errors import RetryableError

# Large enough that one query serves most batches of records.
KEYS_MAX = 500
_ABSENT = Absent()
_Result = Found | Absent | RetryableError
_CONNECTION_ERRORS = (
    OSError,
    ValueError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class PostgresLookup:
    """`Lookup` by an SQL query for each kind, in read-only sessions. Use it from one event loop, and stop it at the end.

    Keys that are looked up at the same time share a query of at most `keys_max` keys. `new_breaker` returns a circuit breaker
    for a query, given its name for error messages and its kind.
    """

    def __init__(
        self,
        configs: Iterable[PostgresLookupConfig],
        new_breaker: Callable[[str, Kind], CircuitBreaker] = lambda query, _kind: CircuitBreaker(query),
        keys_max: int = KEYS_MAX,
    ) -> None:
        self._queries = {config.kind: _BatchedQuery(config, new_breaker, keys_max) for config in configs}

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        """See `Lookup`. `kind` must be configured."""
        return await self._queries[kind].look_up(key)

    async def stop(self) -> None:
        """Cancel queries in flight and close the connections."""
        for query in self._queries.values():
            await query.stop()


class _BatchedQuery:
    """The query of one kind. Up to `connections_max` workers each take the keys that wait and run one query for them."""

    def __init__(
        self,
        config: PostgresLookupConfig,
        new_breaker: Callable[[str, Kind], CircuitBreaker],
        keys_max: int,
    ) -> None:
        self._config = config
        self._keys_max = keys_max
        self._name = f"the {config.kind} query"
        self._may_be_sent = compile_key_check(self._name, config.key_syntax)
        self._breaker = new_breaker(self._name, config.kind)
        self._read_fields = compile_fields_reader(self._name, tuple(config.columns))
        self._statement = _bounded(config)
        self._waiting: dict[str, list[asyncio.Future[Found | Absent]]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._is_gathering = False
        self._pool: asyncpg.Pool | None = None

    async def look_up(self, key: str) -> Found | Absent:
        if not self._may_be_sent(key):
            return NEVER_AN_ID
        # Before queueing, so that lookups in a database that is down fail at once.
        self._breaker.check()
        result: asyncio.Future[Found | Absent] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(result)
        self._start_worker()
        return await result

    def _start_worker(self) -> None:
        """Start a worker if there is a connection for it and no other worker is about to take the keys."""
        if not self._is_gathering and len(self._workers) < self._config.connections_max:
            self._is_gathering = True
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        """Run queries until no key waits."""
        # Keys that are looked up in the same turn of the event loop join the query.
        await asyncio.sleep(0)
        self._is_gathering = False
        while self._waiting:
            keys = list(islice(self._waiting, self._keys_max))
            futures = {key: self._waiting.pop(key) for key in keys}
            # More keys wait than one query takes: another connection may take the rest.
            if self._waiting:
                self._start_worker()
            try:
                results: Mapping[str, _Result] = await self._breaker.call(lambda keys=keys: self._query(keys))  # type: ignore[misc]
            except RetryableError as error:
                results = dict.fromkeys(keys, error)
            except asyncio.CancelledError:
                # Their callers hold futures and no task, so nothing else would end their waiting.
                _set_results(futures, dict.fromkeys(keys, RetryableError(f"{self._name} was stopped")))
                raise
            _set_results(futures, results)

    async def _query(self, keys: Sequence[str]) -> Mapping[str, _Result]:
        """Return the result for each key. Raises RetryableError if the rows are not about these keys, each once."""
        found: dict[str, _Result] = {}
        for row in await self._rows(keys):
            key, *values = row
            # A query that ignores `$1`, or joins too much, would give one id another's name.
            if key is None or key not in keys or key in found:
                raise RetryableError(f"{self._name} responded about another id")
            found[key] = self._read(values)
        return {key: found.get(key, _ABSENT) for key in keys}

    def _read(self, values: Sequence[str | None]) -> _Result:
        try:
            return self._read_fields(dict(zip(self._config.columns, values, strict=True)))
        except RetryableError as error:
            return error

    async def _rows(self, keys: Sequence[str]) -> Sequence[Sequence[str | None]]:
        timeout_s = self._config.timeout_ms / 1000
        try:
            async with (
                asyncio.timeout(timeout_s),
                (await self._connected_pool()).acquire() as connection,
                connection.transaction(readonly=True),
            ):
                # One row more than there are keys, which is enough to see that the query is wrong.
                rows = await connection.fetch(self._statement, keys, len(keys) + 1)
                return [tuple(row.values()) for row in rows]
        except TimeoutError:
            cause = "did not respond in time"
        except asyncpg.QueryCanceledError:
            cause = "took too long"
        except (asyncpg.SyntaxOrAccessError, asyncpg.ReadOnlySQLTransactionError):
            cause = "is refused by its database"
        except _CONNECTION_ERRORS:
            cause = "failed"
        # Raised out here, because asyncpg's errors may quote keys and rows.
        raise RetryableError(f"{self._name} {cause}")

    async def _connected_pool(self) -> asyncpg.Pool:
        if self._pool is None:
            timeout_ms = str(self._config.timeout_ms)
            self._pool = asyncpg.create_pool(
                self._config.dsn,
                min_size=0,
                max_size=self._config.connections_max,
                timeout=self._config.timeout_ms / 1000,
                server_settings={
                    "application_name": "auditap-enrich",
                    # Besides the transaction's own READ ONLY: the query is the operator's, and so are its mistakes.
                    "default_transaction_read_only": "on",
                    # The client's timeout alone would leave the query running on the server.
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
        stopped = RetryableError(f"{self._name} was stopped")
        _set_results(self._waiting, dict.fromkeys(self._waiting, stopped))
        self._waiting.clear()
        if self._pool is not None:
            # Not `close`, which would wait for queries under way.
            self._pool.terminate()
            self._pool = None


def _bounded(config: PostgresLookupConfig) -> str:
    """Return the configured query as a subquery. The outer SELECT bounds the rows and the length of each value, and makes
    anything but a SELECT a syntax error.
    """
    key = f"left({_quoted(config.key_column)}::text, {KEY_CHARS_MAX + 1})"
    # One character more than is allowed shows that a value is too long, without sending all of it.
    values = [f"left({_quoted(column)}::text, {VALUE_CHARS_MAX + 1})" for column in config.columns.values()]
    names = ", ".join(f"{text} AS c{number}" for number, text in enumerate([key, *values]))
    return f"SELECT {names} FROM (\n{config.query}\n) AS found LIMIT $2::bigint"  # noqa: S608  the operator's own SQL


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _set_results(
    futures: Mapping[str, Iterable[asyncio.Future[Found | Absent]]], results: Mapping[str, _Result]
) -> None:
    for key, waiting in futures.items():
        result = results[key]
        for future in waiting:
            if future.done():
                continue  # the caller was cancelled
            if isinstance(result, RetryableError):
                # One error for each future: raised several times, one object would collect the tracebacks of all.
                future.set_exception(RetryableError(str(result)))
            else:
                future.set_result(result)
