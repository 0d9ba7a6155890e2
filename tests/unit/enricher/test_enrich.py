from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import product
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from enricher.cache import CacheLimits, LookupCache
from enricher.config import CacheConfig
from enricher.enrich import Enricher
from enricher.ports import Found, Kind
from schemas.identity import new_id
from schemas.metric_defs import Metrics
from schemas.record import COLUMNS, EnrichmentResult, EnrichmentState, PartialRecord, Record
from tests.fakes.clock import Clock
from tests.fakes.lookup import FakeLookup

COMPLETE, PARTIAL, UNRESOLVABLE = (
    EnrichmentState.COMPLETE,
    EnrichmentState.PARTIAL,
    EnrichmentState.UNRESOLVABLE,
)
NAMES = {
    (Kind.ACCOUNT, "a1"): Found(name="Account 1"),
    (Kind.ACCOUNT, "a2"): Found(name="Account 2"),
    (Kind.ZONE, "z1"): Found(name="one.example", account_id="a1"),
    (Kind.ZONE, "z2"): Found(name="two.example", account_id="a2", account_name="Account 2, says the zone"),
    (Kind.ZONE, "z3"): Found(name="three.example"),
    (Kind.ZONE, "z4"): Found(name="four.example", account_id="gone"),
    (Kind.USER, "u1"): Found(email="one@example.com"),
    (Kind.USER, "u2"): Found(),
    (Kind.TOKEN, "t1"): Found(name="Token 1"),
}
ALL_KINDS = tuple(Kind)


def _record(**fields: Any) -> Record:
    given: dict[str, Any] = dict.fromkeys(COLUMNS)
    given |= {"id": uuid.UUID(int=0), "action_result": "success", "action_type": "view", "receipt": "{}"}
    given |= {"received_ms": 0, "event_digest": b"", "enrichment": PARTIAL}
    return Record(**(given | fields))


def _partial(number: int = 0, **fields: Any) -> PartialRecord:
    """A partial record with only these ids and names."""
    absent: dict[str, Any] = dict.fromkeys(PartialRecord.__struct_fields__)
    return PartialRecord(**(absent | {"id": uuid.UUID(int=number)} | fields))


class Enrichment(Protocol):
    """The port as the ingestor declares it."""

    async def enrich(self, records: Sequence[Record]) -> None: ...


class Setting:
    def __init__(self, kinds: Sequence[Kind], budget_ms: int, config: CacheConfig, clock: Clock) -> None:
        self.source = FakeLookup()
        self.source.answers.update(NAMES)
        self.metrics = Metrics()
        self.clock = clock
        limits = CacheLimits(lookup_ms_max=600_000)
        self.cache = LookupCache(
            self.source,
            dict.fromkeys(kinds, config),
            self.metrics,
            clock=clock,
            limits=limits,
            jitter=lambda: 1,
        )
        self.enricher = Enricher(self.cache, budget_ms, unresolvable_after_ms=0)

    def limit(self, unresolvable_after_ms: int, clock_ms: Callable[[], int]) -> None:
        """Look ids up again that their services do not know, for so long."""
        self.enricher = Enricher(self.cache, 600_000, unresolvable_after_ms, clock_ms)

    async def one(self, **fields: Any) -> Record:
        record = _record(**fields)
        port: Enrichment = self.enricher
        await port.enrich([record])
        return record


@asynccontextmanager
async def _set(
    kinds: Sequence[Kind] = ALL_KINDS,
    budget_ms: int = 600_000,
    config: CacheConfig | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Setting]:
    setting = Setting(kinds, budget_ms, config or CacheConfig(), clock or Clock(1_000.0))
    try:
        yield setting
    finally:
        setting.source.gate.set()
        await setting.cache.stop()


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    async with _set() as it:
        yield it


async def test_every_name_is_filled_in(setting: Setting) -> None:
    record = await setting.one(
        account_id="a1", zone_id="z2", actor_id="u1", actor_type="user", actor_token_id="t1"
    )
    assert (record.account_id, record.account_name) == ("a1", "Account 1")
    assert (record.zone_id, record.zone_name) == ("z2", "two.example")
    assert (record.actor_email, record.actor_token_name) == ("one@example.com", "Token 1")
    assert record.enrichment == COMPLETE


async def test_a_record_without_ids_is_complete_without_a_lookup(setting: Setting) -> None:
    record = await setting.one()
    assert record == _record(enrichment=COMPLETE)
    assert setting.source.lookups.total() == 0


async def test_present_names_are_neither_looked_up_nor_changed(setting: Setting) -> None:
    there = {
        "account_id": "a1", "account_name": "x", "zone_id": "z2", "zone_name": "y", "actor_id": "u1",
        "actor_type": "user", "actor_email": "z@example.com", "actor_token_id": "t1", "actor_token_name": "w",
    }  # fmt: skip
    assert await setting.one(**there) == _record(**there, enrichment=COMPLETE)
    assert setting.source.lookups.total() == 0


async def test_a_record_without_an_account_gets_its_zones_account_and_that_accounts_name(
    setting: Setting,
) -> None:
    record = await setting.one(zone_id="z1")
    assert (record.account_id, record.account_name, record.zone_name) == ("a1", "Account 1", "one.example")
    assert record.enrichment == COMPLETE
    warm = await setting.one(zone_id="z1", zone_name="one.example")
    assert (warm.account_id, warm.account_name) == ("a1", "Account 1")
    assert setting.source.lookups == {(Kind.ZONE, "z1"): 1, (Kind.ACCOUNT, "a1"): 1}


async def test_a_zone_that_names_its_account_saves_a_lookup(setting: Setting) -> None:
    record = await setting.one(zone_id="z2")
    assert (record.account_id, record.account_name) == ("a2", "Account 2, says the zone")
    assert setting.source.lookups == {(Kind.ZONE, "z2"): 1}


async def test_the_zones_account_does_not_replace_the_records_account(setting: Setting) -> None:
    record = await setting.one(account_id="a1", zone_id="z2")
    assert (record.account_id, record.account_name) == ("a1", "Account 1")


async def test_an_account_name_without_an_id_is_kept_without_a_lookup(setting: Setting) -> None:
    record = await setting.one(account_name="given", zone_id="z1")
    assert (record.account_id, record.account_name) == ("a1", "given")
    assert setting.source.lookups == {(Kind.ZONE, "z1"): 1}


async def test_a_zone_without_an_account_is_complete(setting: Setting) -> None:
    record = await setting.one(zone_id="z3")
    assert (record.account_id, record.zone_name, record.enrichment) == (None, "three.example", COMPLETE)


async def test_only_users_have_an_e_mail_address(setting: Setting) -> None:
    for actor_type in (None, "account", "system", "cloudflare_admin"):
        assert (await setting.one(actor_id="u1", actor_type=actor_type)).actor_email is None
    assert setting.source.lookups.total() == 0
    assert (
        await setting.one(actor_id="u1", actor_type="user", actor_email="")
    ).actor_email == "one@example.com"


async def test_a_user_without_an_address_is_complete(setting: Setting) -> None:
    record = await setting.one(actor_id="u2", actor_type="user")
    assert (record.actor_email, record.enrichment) == (None, COMPLETE)


@pytest.mark.parametrize(
    "ids",
    [
        {"account_id": "?"},
        {"zone_id": "?"},
        {"actor_id": "?", "actor_type": "user"},
        {"actor_token_id": "?"},
        {"zone_id": "z4"},
        {"account_id": "a1", "zone_id": "?"},
        {"account_id": "x" * 300},
    ],
)
async def test_an_id_unknown_to_its_service_is_unresolvable(setting: Setting, ids: dict[str, str]) -> None:
    assert (await setting.one(**ids)).enrichment == UNRESOLVABLE


@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_a_failed_lookup_leaves_the_record_partial_and_other_names_are_filled_in(
    setting: Setting, kind: Kind
) -> None:
    setting.source.failing.add(kind)
    record = await setting.one(
        account_id="a1", zone_id="z2", actor_id="u1", actor_type="user", actor_token_id="t1"
    )
    assert record.enrichment == PARTIAL
    filled = (record.account_name, record.zone_name, record.actor_email, record.actor_token_name)
    assert [name is None for name in filled] == [other is kind for other in ALL_KINDS]


async def test_a_failure_outweighs_an_unknown_id(setting: Setting) -> None:
    setting.source.failing.add(Kind.ACCOUNT)
    assert (await setting.one(account_id="a1", zone_id="?")).enrichment == PARTIAL
    assert (await setting.one(zone_id="z1")).enrichment == PARTIAL


async def test_a_kind_without_a_lookup_leaves_no_record_partial() -> None:
    for present in product((False, True), repeat=4):
        kinds = [kind for kind, there in zip(ALL_KINDS, present, strict=True) if there]
        async with _set(kinds) as setting:
            record = await setting.one(zone_id="z1", actor_id="u1", actor_type="user", actor_token_id="t1")
            assert record.enrichment == COMPLETE
            assert {kind for kind, _ in setting.source.lookups} <= set(kinds)
            assert (record.zone_name is not None) == (Kind.ZONE in kinds)
            assert (record.account_name is not None) == ({Kind.ZONE, Kind.ACCOUNT} <= set(kinds))
            assert (record.actor_email is not None) == (Kind.USER in kinds)
            assert (record.actor_token_name is not None) == (Kind.TOKEN in kinds)


async def test_20_000_records_in_concurrent_batches_look_up_each_distinct_key_once(setting: Setting) -> None:
    records = [
        _record(
            account_id=f"a{n % 7}" if n % 3 else None,
            zone_id=f"z{n % 11}",
            actor_id=f"u{n % 13}",
            actor_type="user",
            actor_token_id=f"t{n % 5}",
        )
        for n in range(20_000)
    ]
    batches = [records[start : start + 500] for start in range(0, 20_000, 500)]
    await asyncio.gather(*(setting.enricher.enrich(batch) for batch in batches))
    assert set(setting.source.lookups.values()) == {1}
    assert {record.enrichment for record in records} <= {COMPLETE, UNRESOLVABLE}
    assert {record.zone_name for record in records if record.zone_id == "z1"} == {"one.example"}
    keys = len(setting.source.lookups)
    assert keys <= 7 + 11 + 13 + 5 + 1


async def test_a_slow_lookup_leaves_the_record_partial_and_fills_the_cache() -> None:
    async with _set(budget_ms=20) as setting:
        # Not through the enricher, whose short budget may be over before this is found.
        await setting.cache.look_up(Kind.TOKEN, "t1")
        setting.source.gate.clear()
        record = await setting.one(account_id="a1", zone_id="z1", actor_token_id="t1")
        assert (record.account_name, record.zone_name, record.actor_token_name) == (None, None, "Token 1")
        assert record.enrichment == PARTIAL
        setting.source.gate.set()
        while setting.source.waiting or any(each.in_flight for each in setting.cache._caches.values()):
            await asyncio.sleep(0)
        record = await setting.one(account_id="a1", zone_id="z1", actor_token_id="t1")
        assert record.enrichment == COMPLETE
        assert set(setting.source.lookups.values()) == {1}


async def test_a_hung_lookup_leaves_only_its_own_records_partial(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[asyncio.Timeout] = []

    def kept(delay_s: float) -> asyncio.Timeout:
        timeouts.append(asyncio.Timeout(asyncio.get_running_loop().time() + delay_s))
        return timeouts[-1]

    async with _set() as setting:
        hung = asyncio.create_task(setting.cache.fetch(Kind.ZONE, "z9"))
        setting.source.gate.clear()
        await setting.source.until_waiting(1)
        setting.source.gate, closed = asyncio.Event(), setting.source.gate
        setting.source.gate.set()
        records = [_record(zone_id="z9"), _record(zone_id="z1")]
        monkeypatch.setattr(asyncio, "timeout", kept)
        enriching = asyncio.create_task(setting.enricher.enrich(records))
        while not setting.cache.cached(Kind.ACCOUNT, ("a1",))[0]:
            await asyncio.sleep(0)
        for _ in range(10):  # from the cache into the batch
            await asyncio.sleep(0)
        assert not enriching.done()
        # The budget's is the first; now it is used up.
        timeouts[0].reschedule(asyncio.get_running_loop().time())
        await enriching
        assert [record.enrichment for record in records] == [PARTIAL, COMPLETE]
        assert records[1].account_name == "Account 1"
        closed.set()
        await hung


async def test_only_one_batch_waits_for_a_slow_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    async with _set(budget_ms=20, clock=clock) as setting:
        setting.source.gate.clear()
        assert (await setting.one(account_id="a1")).enrichment == PARTIAL
        # On a busy machine the lookup begins long after the budget, and so has taken less than it.
        clock.now_s += 0.02
        monkeypatch.setattr(Enricher, "_fetch", _never)
        assert (await setting.one(account_id="a1")).enrichment == PARTIAL


async def test_with_every_key_cached_no_task_is_created(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {"zone_id": "z1", "actor_id": "u1", "actor_type": "user", "actor_token_id": "?"}
    await setting.one(**ids)
    monkeypatch.setattr(asyncio, "create_task", _never)
    monkeypatch.setattr(Enricher, "_fetch", _never)
    record = await setting.one(**ids)
    assert (record.account_name, record.enrichment) == ("Account 1", UNRESOLVABLE)


async def test_a_key_counts_once_per_batch(setting: Setting) -> None:
    await setting.one(zone_id="z1")
    await setting.enricher.enrich([_record(zone_id="z1"), _record(account_id="a1"), _record(account_id="a1")])
    registry = setting.metrics.registry
    for kind in ("account", "zone"):
        for outcome in ("found", "hit"):
            assert registry.get_sample_value("auditap_lookups_total", {"kind": kind, "outcome": outcome}) == 1


def _never(*_args: Any, **_options: Any) -> None:
    pytest.fail("a lookup was started although every key is cached")


async def test_a_cancelled_batch_does_not_cancel_lookups_of_other_batches(setting: Setting) -> None:
    setting.source.gate.clear()
    batches = [asyncio.create_task(setting.one(account_id="a1")) for _ in range(2)]
    await setting.source.until_waiting(1)
    batches[0].cancel()
    await asyncio.wait((batches[0],))
    setting.source.gate.set()
    assert (await batches[1]).account_name == "Account 1"
    assert setting.source.lookups.total() == 1


async def test_more_distinct_keys_than_the_cache_holds_are_all_filled_in() -> None:
    async with _set(config=CacheConfig(entries_max=3)) as setting:
        for n in range(50):
            setting.source.answers[Kind.ACCOUNT, f"many{n}"] = Found(name=f"Name {n}")
        records = [_record(account_id=f"many{n}") for n in range(50)]
        await setting.enricher.enrich(records)
        assert [record.account_name for record in records] == [f"Name {n}" for n in range(50)]


async def test_an_empty_batch_is_accepted(setting: Setting) -> None:
    await setting.enricher.enrich([])
    assert await setting.enricher.resolve([]) == []


async def test_a_partial_record_is_resolved_from_its_ids(setting: Setting) -> None:
    rows = [
        _partial(1, zone_id="z1", actor_id="u1", actor_type="user"),
        _partial(2, account_id="a2", account_name="there", actor_token_id="t1"),
        _partial(3, account_id="?"),
    ]
    assert await setting.enricher.resolve(rows) == [
        EnrichmentResult(
            uuid.UUID(int=1), "a1", "Account 1", "one.example", "one@example.com", None, COMPLETE
        ),
        EnrichmentResult(uuid.UUID(int=2), None, None, None, None, "Token 1", COMPLETE),
        EnrichmentResult(uuid.UUID(int=3), None, None, None, None, None, UNRESOLVABLE),
    ]
    assert "one@example.com" not in repr(await setting.enricher.resolve(rows))


IDS = {
    "account_id": st.sampled_from([None, "", "a1", "a2", "?", "x" * 300]),
    "account_name": st.sampled_from([None, "", "given"]),
    "zone_id": st.sampled_from([None, "", "z1", "z2", "z3", "z4", "?"]),
    "zone_name": st.sampled_from([None, "", "given.example"]),
    "actor_id": st.sampled_from([None, "u1", "u2", "?"]),
    "actor_type": st.sampled_from([None, "user", "system"]),
    "actor_email": st.sampled_from([None, "given@example.com"]),
    "actor_token_id": st.sampled_from([None, "t1", "?"]),
    "actor_token_name": st.sampled_from([None, "given"]),
}
FOUND_LATER = ("account_id", "account_name", "zone_name", "actor_email", "actor_token_name")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.fixed_dictionaries(IDS), max_size=5), st.sets(st.sampled_from(ALL_KINDS)))
def test_enriching_at_ingest_and_in_the_backfill_give_the_same_result(
    batch: list[dict[str, Any]], down: set[Kind]
) -> None:
    async def both() -> tuple[list[Record], list[EnrichmentResult]]:
        async with _set() as setting:
            setting.source.failing = set(down)
            records = [_record(**ids) for ids in batch]
            await setting.enricher.enrich(records)
            return records, await setting.enricher.resolve([_partial(**ids) for ids in batch])

    with capture_logs():
        records, backfills = asyncio.run(both())
    for ids, record, backfill in zip(batch, records, backfills, strict=True):
        assert record.enrichment == backfill.state
        for name in FOUND_LATER:
            assert (getattr(record, name) or None) == (ids[name] or getattr(backfill, name))
            assert not (ids[name] and getattr(backfill, name))
        if not down:
            assert backfill.state is not PARTIAL


class TestAnIdThatItsServiceMayLearnOf:
    """A directory learns of an id some time after the id was used: of a replica, or by a nightly synchronisation."""

    AFTER_MS = 60_000
    NOW_MS = 1_700_000_000_000

    @pytest.fixture
    async def setting(self) -> AsyncIterator[Setting]:
        async with _set() as it:
            it.limit(self.AFTER_MS, lambda: self.NOW_MS)
            yield it

    def id_of_age(self, age_ms: int) -> uuid.UUID:
        return uuid.UUID(new_id(self.NOW_MS - age_ms))

    async def test_leaves_a_record_partial_while_it_is_young(self, setting: Setting) -> None:
        for age_ms, state in ((0, PARTIAL), (59_999, PARTIAL), (60_000, UNRESOLVABLE), (-1, PARTIAL)):
            record_id = self.id_of_age(age_ms)
            assert (await setting.one(id=record_id, zone_id="?")).enrichment == state
            [later] = await setting.enricher.resolve([_partial(id=record_id, zone_id="?")])
            assert later.state == state
        assert setting.source.lookups.total() == 1

    async def test_is_found_by_the_backfill(self, setting: Setting) -> None:
        record = await setting.one(id=self.id_of_age(0), zone_id="new")
        assert (record.enrichment, record.account_id) == (PARTIAL, None)
        setting.source.answers[Kind.ZONE, "new"] = Found(name="new.example", account_id="a1")
        setting.clock.now_s += CacheConfig().negative_ttl_ms / 1000
        [later] = await setting.enricher.resolve([_partial(id=record.id, zone_id="new")])
        assert (later.state, later.account_id, later.zone_name) == (COMPLETE, "a1", "new.example")

    async def test_is_final_once_it_has_been_unknown_for_that_long(self, setting: Setting) -> None:
        # Ids that never become known, as of robots, leave no record for the backfill.
        while setting.clock.now_s < 1_000 + self.AFTER_MS / 1000:
            assert (await setting.one(id=self.id_of_age(0), zone_id="?")).enrichment == PARTIAL
            setting.clock.now_s += 5
        setting.clock.now_s += CacheConfig().negative_ttl_ms_max / 1000
        assert (await setting.one(id=self.id_of_age(0), zone_id="?")).enrichment == UNRESOLVABLE

    async def test_is_none_if_it_cannot_be_an_id(self, setting: Setting) -> None:
        assert (await setting.one(id=self.id_of_age(0), account_id="x" * 300)).enrichment == UNRESOLVABLE

    async def test_does_not_keep_a_record_out_of_its_accounts_list(self, setting: Setting) -> None:
        young = self.id_of_age(0)
        record = await setting.one(id=young, zone_id="z1", actor_id="?", actor_type="user")
        assert (record.account_id, record.enrichment) == ("a1", PARTIAL)
        found_late = _partial(id=young, zone_id="z1", actor_id="?", actor_type="user")
        [result] = await setting.enricher.resolve([found_late])
        assert (result.account_id, result.state) == ("a1", UNRESOLVABLE)
        with_account = _partial(
            id=young, account_id="a1", account_name="A", zone_id="z1", actor_id="?", actor_type="user"
        )
        [result] = await setting.enricher.resolve([with_account])
        assert result.state == PARTIAL

    async def test_waits_with_its_account_for_a_lookup_that_fails(self, setting: Setting) -> None:
        setting.source.failing = {Kind.USER}
        old = _partial(id=self.id_of_age(self.AFTER_MS), zone_id="z1", actor_id="u1", actor_type="user")
        [result] = await setting.enricher.resolve([old])
        assert (result.state, result.lookup_failed) == (PARTIAL, True)
        setting.source.failing = set()
        setting.clock.now_s += 60
        [result] = await setting.enricher.resolve([old])
        assert (result.state, result.account_id, result.actor_email) == (COMPLETE, "a1", "one@example.com")

    async def test_is_final_for_an_old_record_although_the_rate_allows_no_lookup(self) -> None:
        async with _set(config=CacheConfig(unseen_per_s=0.1)) as setting:
            setting.limit(self.AFTER_MS, lambda: self.NOW_MS)
            # The only lookup that the rate allows.
            assert (await setting.one(id=self.id_of_age(0), zone_id="?")).enrichment == PARTIAL
            setting.clock.now_s += 5
            old = self.id_of_age(self.AFTER_MS)
            for zone_id, state in (("?", UNRESOLVABLE), ("never looked up", PARTIAL)):
                [result] = await setting.enricher.resolve([_partial(id=old, zone_id=zone_id)])
                assert (result.state, result.lookup_failed) == (state, state is PARTIAL)
            assert setting.source.lookups.total() == 1

    async def test_is_looked_up_again_less_and_less_often(self, setting: Setting) -> None:
        for _ in range(3_600):
            await setting.one(id=self.id_of_age(0), account_id="?")
            setting.clock.now_s += 1
        # At 0, 5, 15, 35 and 75 s, and then once a minute.
        assert setting.source.lookups[Kind.ACCOUNT, "?"] == 5 + (3_600 - 75 - 1) // 60

    async def test_leaves_room_for_the_ids_of_new_records(self) -> None:
        async with _set(config=CacheConfig(unseen_per_s=2)) as setting:
            setting.limit(self.AFTER_MS, lambda: self.NOW_MS)
            flood = [_partial(id=self.id_of_age(0), zone_id=f"?{number}") for number in range(100)]
            await setting.enricher.resolve(flood)
            assert setting.source.lookups.total() == 10
            records = [_record(id=self.id_of_age(0), zone_id=f"new{number}") for number in range(100)]
            await setting.enricher.enrich(records)
            assert setting.source.lookups.total() == 20
