"""Every kind at the service that is configured for it."""

from __future__ import annotations

from collections.abc import Mapping

from enricher.breaker import Breaker
from enricher.config import CacheConfig, EnricherConfig, LookUpConfig, QueryConfig
from enricher.http_lookup import HttpLookUp
from enricher.keys import KeyCheck, compile_keys
from enricher.ports import Absent, Found, Kind, LookUp
from enricher.postgres_lookup import PostgresLookUp
from schemas.metric_defs import Metrics


class LookUps:
    """`LookUp` by HTTP or query, whichever a kind is configured for. To be stopped at the end."""

    def __init__(self, config: EnricherConfig, metrics: Metrics) -> None:
        self._metrics = metrics
        self._http = HttpLookUp(config.look_ups, self._breaker)
        self._postgres = PostgresLookUp(config.queries, self._breaker)
        configured: tuple[LookUpConfig | QueryConfig, ...] = (*config.look_ups, *config.queries)
        self._services: Mapping[Kind, LookUp] = {
            each.kind: self._http if isinstance(each, LookUpConfig) else self._postgres for each in configured
        }
        self.caches: Mapping[Kind, CacheConfig] = {each.kind: each.cache for each in configured}
        self.key_checks: Mapping[Kind, KeyCheck] = {
            each.kind: compile_keys(f"the {each.kind} look-up", each.key_syntax, each.key_chars_max)
            for each in configured
        }

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        """See `LookUp`. `kind` is one of those configured."""
        return await self._services[kind].look_up(kind, key)

    async def stop(self) -> None:
        """Close all connections."""
        await self._http.stop()
        await self._postgres.stop()

    def _breaker(self, who: str, config: LookUpConfig | QueryConfig) -> Breaker:
        gauge = self._metrics.lookup_breaker_open.labels(config.kind.value)
        gauge.set(0)

        def show(*, is_open: bool) -> None:
            gauge.set(int(is_open))

        return Breaker(who, config.breaker, show)
