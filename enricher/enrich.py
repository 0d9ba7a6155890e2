"""Fills in the names for the ids in records: at ingest, and later for records that were stored partial."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from enricher.cache import LookupCache, LookupResult
from enricher.ports import Absent, Enrichable, Found, Kind
from schemas.identity import id_ms_of
from schemas.record import EnrichmentResult, EnrichmentState, PartialRecord, Record

# The fields that one lookup contributes to a record, and an index into _STATES. The highest index of a record's parts is
# the record's state.
_Part = tuple[Found, int]
_STATES = (
    EnrichmentState.COMPLETE,
    EnrichmentState.UNRESOLVABLE,
    # An id that its service may learn of; final if the record is old, see `_Batch._state`.
    EnrichmentState.PARTIAL,
    EnrichmentState.PARTIAL,
)
_NOT_NEEDED: _Part = (Found(), 0)
_UNKNOWN_ID: _Part = (Found(), 1)
_NOT_YET_KNOWN: _Part = (Found(), 2)
_NO_RESULT: _Part = (Found(), 3)


# The key to look up for a record, by kind; None if the record needs no lookup of that kind.


def _account_key(record: Enrichable) -> str | None:
    return None if record.account_name else record.account_id


def _zone_key(record: Enrichable) -> str | None:
    # A zone gives its name and, for records without an account, its account.
    return None if record.zone_name and record.account_id else record.zone_id


def _user_key(record: Enrichable) -> str | None:
    return record.actor_id if record.actor_type == "user" and not record.actor_email else None


def _token_key(record: Enrichable) -> str | None:
    return None if record.actor_token_name else record.actor_token_id


def _unnamed_account(zone: Found) -> str | None:
    """Return the zone's account, if the zone's service did not name it."""
    return None if zone.account_name else zone.account_id


class _Batch:
    """The distinct keys of a batch of records, and the results so far.

    `old_ms`: a time in Unix ms. A record from then or earlier is final, even if a service does not know one of its ids.
    """

    def __init__(self, kinds: Iterable[Kind], records: Sequence[Enrichable], old_ms: int) -> None:
        self._old_ms = old_ms
        self.keys: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        # Zones of records without an account: the zone's account needs a name as well.
        self.zones_for_accounts: set[str] = set()
        self.parts: dict[Kind, dict[str, _Part]] = {kind: {} for kind in Kind}
        # A kind without a lookup leaves no record partial; a kind with one does, until there is a result.
        self._default = dict.fromkeys(Kind, _NOT_NEEDED) | dict.fromkeys(kinds, _NO_RESULT)
        for record in records:
            self._collect(record)

    def _collect(self, record: Enrichable) -> None:
        if key := _account_key(record):
            self.keys[Kind.ACCOUNT].add(key)
        if key := _zone_key(record):
            self.keys[Kind.ZONE].add(key)
            if not record.account_id and not record.account_name:
                self.zones_for_accounts.add(key)
        if key := _user_key(record):
            self.keys[Kind.USER].add(key)
        if key := _token_key(record):
            self.keys[Kind.TOKEN].add(key)

    def part(self, kind: Kind, key: str | None) -> _Part:
        return self.parts[kind].get(key, self._default[kind]) if key else _NOT_NEEDED

    def result(self, record: Enrichable) -> EnrichmentResult:
        zone, zone_state = self.part(Kind.ZONE, _zone_key(record))
        user, user_state = self.part(Kind.USER, _user_key(record))
        token, token_state = self.part(Kind.TOKEN, _token_key(record))
        account, account_state = self._account(record, zone)
        states = (zone_state, user_state, token_state, account_state)
        return EnrichmentResult(
            id=record.id,
            # Only if the record has none: a partial index lists accounts that were found late, see
            # docs/adr/0005-accounts-found-late.md.
            account_id=None if record.account_id else zone.account_id,
            account_name=account.name,
            zone_name=None if record.zone_name else zone.name,
            actor_email=user.email,
            actor_token_name=token.name,
            state=self._state(record, zone, states),
            lookup_failed=max(states) == _NO_RESULT[1],
        )

    def _state(self, record: Enrichable, zone: Found, states: tuple[int, ...]) -> EnrichmentState:
        highest = max(states)
        if highest != _NOT_YET_KNOWN[1]:
            return _STATES[highest]
        # A result of the backfill is stored once. The account, by which the record is listed, does not wait for a name that
        # its service does not know. It does wait for a lookup that failed: its name may be there in seconds.
        has_found_account = isinstance(record, PartialRecord) and not record.account_id and zone.account_id
        if has_found_account or id_ms_of(record.id) <= self._old_ms:
            return EnrichmentState.UNRESOLVABLE
        return EnrichmentState.PARTIAL

    def _account(self, record: Enrichable, zone: Found) -> _Part:
        if record.account_name:
            return _NOT_NEEDED
        # The zone's service named its own account, which saves a lookup.
        if zone.account_name and not record.account_id:
            return Found(name=zone.account_name), 0
        return self.part(Kind.ACCOUNT, record.account_id or zone.account_id)


class Enricher:
    """Enriches records through a cache of lookups. A kind without a configured lookup is skipped.

    No call raises or takes longer than `batch_budget_ms`. Lookups that are not done by then go on and fill the cache; their
    records are `partial`. So are records with an id that its service does not know, until the record is older than
    `unresolvable_after_ms`, or the id has been unknown for that long. `clock_ms` returns Unix ms.
    """

    def __init__(
        self,
        cache: LookupCache,
        batch_budget_ms: int,
        unresolvable_after_ms: int,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._cache = cache
        self._unresolvable_after_ms = unresolvable_after_ms
        self._clock_ms = clock_ms
        self._kinds = [kind for kind in Kind if kind in cache.kinds]
        self._budget_s = batch_budget_ms / 1000

    async def enrich(self, records: Sequence[Record]) -> None:
        """Fill in missing names in place, and set each record's `enrichment`."""
        batch = await self._look_up(records, is_backfill=False)
        for record in records:
            _apply(batch.result(record), record)

    async def resolve(self, records: Sequence[Enrichable]) -> list[EnrichmentResult]:
        """Return the result for each record, in order, without changing the records."""
        batch = await self._look_up(records, is_backfill=True)
        return [batch.result(record) for record in records]

    async def _look_up(self, records: Sequence[Enrichable], *, is_backfill: bool) -> _Batch:
        batch = _Batch(self._kinds, records, self._clock_ms() - self._unresolvable_after_ms)
        missing = {kind: self._use_cache(batch, kind, batch.keys[kind]) for kind in self._kinds}
        if Kind.ACCOUNT in missing:
            missing[Kind.ACCOUNT] += self._use_cache(batch, Kind.ACCOUNT, _accounts_of_zones(batch))
        if any(missing.values()):
            await self._fetch(batch, missing, is_backfill=is_backfill)
        return batch

    def _part(self, result: LookupResult) -> _Part:
        if isinstance(result, Found):
            return result, 0
        if not isinstance(result, Absent):
            return _NO_RESULT
        is_final = result.is_final or result.unknown_ms >= self._unresolvable_after_ms
        return _UNKNOWN_ID if is_final else _NOT_YET_KNOWN

    def _use_cache(self, batch: _Batch, kind: Kind, keys: Iterable[str]) -> list[str]:
        """Put cached results into the batch. Returns the keys that have to be fetched."""
        # With the whole budget as the wait: a lookup in flight for that long will hardly end within another one.
        cached, missing = self._cache.cached(kind, keys, self._budget_s)
        batch.parts[kind].update((key, self._part(result)) for key, result in cached.items())
        return missing

    async def _fetch(self, batch: _Batch, missing: dict[Kind, list[str]], *, is_backfill: bool) -> None:
        try:
            # Cancelling these tasks ends the waiting and not the lookups, which belong to the cache.
            async with asyncio.timeout(self._budget_s), asyncio.TaskGroup() as group:
                for kind, keys in missing.items():
                    for key in keys:
                        group.create_task(self._fetch_one(batch, kind, key, is_backfill=is_backfill))
        except TimeoutError:
            pass  # records without a result become partial

    async def _fetch_one(self, batch: _Batch, kind: Kind, key: str, *, is_backfill: bool) -> None:
        result = await self._cache.fetch(kind, key, is_backfill=is_backfill)
        batch.parts[kind][key] = self._part(result)
        if kind is Kind.ZONE and isinstance(result, Found) and key in batch.zones_for_accounts:
            await self._fetch_account_of(batch, result, is_backfill=is_backfill)

    async def _fetch_account_of(self, batch: _Batch, zone: Found, *, is_backfill: bool) -> None:
        account = _unnamed_account(zone)
        if account and Kind.ACCOUNT in self._cache.kinds and account not in batch.parts[Kind.ACCOUNT]:
            for key in self._use_cache(batch, Kind.ACCOUNT, (account,)):
                await self._fetch_one(batch, Kind.ACCOUNT, key, is_backfill=is_backfill)


def _accounts_of_zones(batch: _Batch) -> set[str]:
    """Return the accounts of zones with a cached result that the batch does not look up anyway."""
    zones = (batch.part(Kind.ZONE, key)[0] for key in batch.zones_for_accounts)
    accounts = {account for zone in zones if (account := _unnamed_account(zone))}
    return accounts - batch.keys[Kind.ACCOUNT]


def _apply(result: EnrichmentResult, record: Record) -> None:
    record.account_id = record.account_id or result.account_id
    record.account_name = record.account_name or result.account_name
    record.zone_name = record.zone_name or result.zone_name
    record.actor_email = record.actor_email or result.actor_email
    record.actor_token_name = record.actor_token_name or result.actor_token_name
    record.enrichment = result.state
