"""Routes each kind of id to the lookup that is configured for it."""

from __future__ import annotations

from collections.abc import Mapping

from enricher.circuit_breaker import CircuitBreaker
from enricher.config import CacheConfig, EnricherConfig, HttpLookupConfig, PostgresLookupConfig
from enricher.http_lookup import HttpLookup
from enricher.key_syntax import KeyCheck, compile_key_check
from enricher.ports import Absent, Found, Kind, Lookup
from enricher.postgres_lookup import PostgresLookup
from schemas.metric_defs import Metrics


class LookupRouter:
    """The `Lookup` for every configured kind. Must be stopped at the end.

    `cache_configs` and `key_checks` are what `LookupCache` needs in front of it, by kind.
    """

    def __init__(self, config: EnricherConfig, metrics: Metrics) -> None:
        self._metrics = metrics
        self._http = HttpLookup(config.http_lookups, self._circuit_breaker)
        self._postgres = PostgresLookup(config.postgres_lookups, self._circuit_breaker)
        self._lookups: dict[Kind, Lookup] = dict.fromkeys(
            (each.kind for each in config.http_lookups), self._http
        ) | dict.fromkeys((each.kind for each in config.postgres_lookups), self._postgres)
        configured: tuple[HttpLookupConfig | PostgresLookupConfig, ...] = (
            *config.http_lookups,
            *config.postgres_lookups,
        )
        self.cache_configs: Mapping[Kind, CacheConfig] = {each.kind: each.cache for each in configured}
        self.key_checks: Mapping[Kind, KeyCheck] = {
            each.kind: compile_key_check(f"the {each.kind} lookup", each.key_syntax) for each in configured
        }

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        """See `Lookup`. `kind` must be configured."""
        return await self._lookups[kind].look_up(kind, key)

    async def stop(self) -> None:
        """Close all connections."""
        await self._http.stop()
        await self._postgres.stop()

    def _circuit_breaker(self, service: str, kind: Kind) -> CircuitBreaker:
        gauge = self._metrics.lookup_breaker_open.labels(kind.value)
        gauge.set(0)

        def show(*, is_open: bool) -> None:
            gauge.set(int(is_open))

        return CircuitBreaker(service, show)
