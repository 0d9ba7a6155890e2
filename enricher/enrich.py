"""Fills in what is known elsewhere about the ids in records: at ingest, and later for records left partial."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from enricher.cache import Answer, LookUpCache
from enricher.ports import Absent, Found, Incomplete, Kind
from schemas.record import EnrichmentState, Record


class Completion(msgspec.Struct, frozen=True):
    """What a record lacked and has been found, by the names and in the order of `store_enrichments.sql`; the rest is None.

    `state` is worth storing unless it is `partial`: then some look-up failed, and asking later is right.
    """

    id: UUID
    account_id: str | None
    account_name: str | None
    zone_name: str | None
    actor_email: str | None
    actor_token_name: str | None
    state: EnrichmentState

    def __repr__(self) -> str:
        return f"<Completion {self.state}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no names to rich either."""
        return []


# What an answer gives a record, and how it bears on the record's state: the highest wins.
_Part = tuple[Found, int]
_STATES = (EnrichmentState.COMPLETE, EnrichmentState.UNRESOLVABLE, EnrichmentState.PARTIAL)
_NOTHING_WANTED: _Part = (Found(), 0)
_NOTHING_FOUND: _Part = (Found(), 1)
_NOT_ANSWERED: _Part = (Found(), 2)


def _part(answer: Answer) -> _Part:
    if isinstance(answer, Found):
        return answer, 0
    return _NOTHING_FOUND if isinstance(answer, Absent) else _NOT_ANSWERED


def _account_key(subject: Incomplete) -> str | None:
    return None if subject.account_name else subject.account_id


def _zone_key(subject: Incomplete) -> str | None:
    """A zone is asked for its name and, where the record has no account, for its account."""
    return None if subject.zone_name and subject.account_id else subject.zone_id


def _user_key(subject: Incomplete) -> str | None:
    return subject.actor_id if subject.actor_type == "user" and not subject.actor_email else None


def _token_key(subject: Incomplete) -> str | None:
    return None if subject.actor_token_name else subject.actor_token_id


def _account_to_name(zone: Found) -> str | None:
    """Return the account whose name has still to be asked for, once its zone is known."""
    return None if zone.account_name else zone.account_id


class _Batch:
    """What one batch wants to know, each key once, and what it has learned so far."""

    def __init__(self, kinds: Iterable[Kind], subjects: Sequence[Incomplete]) -> None:
        self.wanted: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        self.zones_to_name_accounts_of: set[str] = set()
        self.parts: dict[Kind, dict[str, _Part]] = {kind: {} for kind in Kind}
        self._unasked = dict.fromkeys(Kind, _NOTHING_WANTED) | dict.fromkeys(kinds, _NOT_ANSWERED)
        self._collect(subjects)

    def _collect(self, subjects: Sequence[Incomplete]) -> None:
        accounts, zones = self.wanted[Kind.ACCOUNT], self.wanted[Kind.ZONE]
        users, tokens = self.wanted[Kind.USER], self.wanted[Kind.TOKEN]
        for subject in subjects:
            if key := _account_key(subject):
                accounts.add(key)
            if key := _zone_key(subject):
                zones.add(key)
                if not subject.account_id and not subject.account_name:
                    self.zones_to_name_accounts_of.add(key)
            if key := _user_key(subject):
                users.add(key)
            if key := _token_key(subject):
                tokens.add(key)

    def part(self, kind: Kind, key: str | None) -> _Part:
        return self.parts[kind].get(key, self._unasked[kind]) if key else _NOTHING_WANTED

    def completion(self, subject: Incomplete) -> Completion:
        zone, zone_rank = self.part(Kind.ZONE, _zone_key(subject))
        user, user_rank = self.part(Kind.USER, _user_key(subject))
        token, token_rank = self.part(Kind.TOKEN, _token_key(subject))
        account, account_rank = self._account(subject, zone)
        return Completion(
            id=subject.id,
            account_id=None if subject.account_id else zone.account_id,
            account_name=account.name,
            zone_name=None if subject.zone_name else zone.name,
            actor_email=user.email,
            actor_token_name=token.name,
            state=_STATES[max(zone_rank, user_rank, token_rank, account_rank)],
        )

    def _account(self, subject: Incomplete, zone: Found) -> _Part:
        if subject.account_name:
            return _NOTHING_WANTED
        if zone.account_name and not subject.account_id:
            return Found(name=zone.account_name), 0
        return self.part(Kind.ACCOUNT, subject.account_id or zone.account_id)


class Enricher:
    """Completes records from a cache of look-ups; one kind that is not configured is simply not asked for."""

    def __init__(self, cache: LookUpCache, batch_budget_ms: int) -> None:
        self._cache = cache
        self._kinds = [kind for kind in Kind if kind in cache.kinds]
        self._budget_s = batch_budget_ms / 1000

    async def enrich(self, records: Sequence[Record]) -> None:
        """Fill in names in place and set each record's `enrichment`.

        Never raises, and waits no longer than the batch's budget: what has not come by then leaves its records
        `partial`, while the look-up goes on and fills the cache.
        """
        batch = await self._learned(records)
        for record in records:
            _apply(batch.completion(record), record)

    async def resolve(self, records: Sequence[Incomplete]) -> list[Completion]:
        """Return the completion of each record, in order, within the same budget. Never raises."""
        batch = await self._learned(records)
        return [batch.completion(record) for record in records]

    async def _learned(self, subjects: Sequence[Incomplete]) -> _Batch:
        batch = _Batch(self._kinds, subjects)
        asking = {kind: self._recall(batch, kind, batch.wanted[kind]) for kind in self._kinds}
        if Kind.ACCOUNT in asking:
            asking[Kind.ACCOUNT] += self._recall(batch, Kind.ACCOUNT, _accounts_of_zones(batch))
        if any(asking.values()):
            await self._ask(batch, asking)
        return batch

    def _recall(self, batch: _Batch, kind: Kind, keys: Iterable[str]) -> list[str]:
        """Put what the cache knows into the batch; return the keys that have to be asked for."""
        known, asking = self._cache.known(kind, keys, self._budget_s)
        batch.parts[kind].update((key, _part(answer)) for key, answer in known.items())
        return asking

    async def _ask(self, batch: _Batch, asking: dict[Kind, list[str]]) -> None:
        try:
            async with asyncio.timeout(self._budget_s), asyncio.TaskGroup() as group:
                for kind, keys in asking.items():
                    for key in keys:
                        group.create_task(self._ask_one(batch, kind, key))
        except TimeoutError:
            pass  # what is missing in the batch leaves its records partial

    async def _ask_one(self, batch: _Batch, kind: Kind, key: str) -> None:
        answer = await self._cache.answer(kind, key)
        batch.parts[kind][key] = _part(answer)
        if kind is Kind.ZONE and isinstance(answer, Found) and key in batch.zones_to_name_accounts_of:
            await self._ask_account_of(batch, answer)

    async def _ask_account_of(self, batch: _Batch, zone: Found) -> None:
        account = _account_to_name(zone)
        if account and Kind.ACCOUNT in self._cache.kinds and account not in batch.parts[Kind.ACCOUNT]:
            for key in self._recall(batch, Kind.ACCOUNT, (account,)):
                await self._ask_one(batch, Kind.ACCOUNT, key)


def _accounts_of_zones(batch: _Batch) -> set[str]:
    """Return the accounts that zones known already lead to, and that the batch does not want anyway."""
    zones = (batch.part(Kind.ZONE, key)[0] for key in batch.zones_to_name_accounts_of)
    return {account for zone in zones if (account := _account_to_name(zone))} - batch.wanted[Kind.ACCOUNT]


def _apply(completion: Completion, record: Record) -> None:
    record.account_id = record.account_id or completion.account_id
    record.account_name = record.account_name or completion.account_name
    record.zone_name = record.zone_name or completion.zone_name
    record.actor_email = record.actor_email or completion.actor_email
    record.actor_token_name = record.actor_token_name or completion.actor_token_name
    record.enrichment = completion.state
