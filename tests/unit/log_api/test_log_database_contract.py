"""The contract of `LogDatabase`, for Postgres and the memory log."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_interface
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import pytest

from auditap.database.tokens import create_token, revoke_token
from log_api.completeness import Gap
from log_api.config import LogApiConfig, LogApiLimits
from log_api.connections import Session
from log_api.database import PostgresLogDatabase
from log_api.ports import Count, LogDatabase, Permission, Token
from log_api.records import Page, Row
from log_api.resource_changes import ResourceChanges, ResourceKey, WantedChanges
from log_api.sql_builder import (
    FILTERS,
    LOGIN_EMAIL,
    LOGIN_EMAIL_PATTERN,
    LOGIN_FILTERS,
    LOGINS,
    Condition,
    Direction,
    Field,
    ListQuery,
    Statement,
    SummaryQuery,
)
from schemas.errors import RetryableError, StartupError
from schemas.event import Exchange
from schemas.identity import first_id_at, rfc3339_ms
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.audit_database import AuditDatabase
from tests.ports import free_port
from tests.records import POLICY_UPDATE, record
from tests.unit.log_api.conftest import PAGE_BYTES_MAX
from tests.unit.log_api.memory_log import MemoryLog
from tests.unit.log_api.stored_log import StoredLog, reads, unhurried

DAY_MS = 86_400_000
NOON_MS = (int(datetime.now(UTC).timestamp() * 1000) // DAY_MS - 3) * DAY_MS + DAY_MS // 2
A, B = "a" * 32, "b" * 32


class Log(NamedTuple):
    """An implementation, and what fills it."""

    read: LogDatabase
    write: Any


@pytest.fixture(params=["memory", "postgres"])
def log(request: pytest.FixtureRequest) -> Log:
    if request.param == "memory":
        memory = request.getfixturevalue("memory_log")
        return Log(memory, memory)
    return Log(request.getfixturevalue("postgres_log"), request.getfixturevalue("stored_log"))


def list_query(
    *conditions: Condition, since_ms: int = NOON_MS, before_ms: int = NOON_MS + 1000, **others: Any
) -> ListQuery:
    return ListQuery((A,), since_ms, before_ms, conditions=conditions, **others)


def ids(page: Page) -> list[str]:
    return [one.id for one in page.records]


def hexes(*records: Record) -> list[str]:
    return [one.id.hex for one in records]


async def test_the_accounts_of_recent_records(log: Log) -> None:
    assert await reads(log.read).accounts(10) == []
    found_late = record(NOON_MS + 9, account_id=None)
    await log.write.add(
        [record(NOON_MS + number, account_id=account) for number, account in enumerate([B, A, B, None])]
    )
    await log.write.add([found_late])
    await log.write.complete(found_late.id, account_id="c" * 32)
    assert await reads(log.read).accounts(10) == [A, B, "c" * 32]
    assert await reads(log.read).accounts(2) == [A, B]


async def test_the_range_is_half_open(log: Log) -> None:
    inside = [record(NOON_MS, account_id=A), record(NOON_MS + 999, account_id=A)]
    outside = [record(NOON_MS - 1, account_id=A), record(NOON_MS + 1000, account_id=A)]
    await log.write.add([*inside, *outside])
    page = await reads(log.read).page(list_query(direction=Direction.ASC))
    assert ids(page) == hexes(*inside)
    assert page.after is None


@pytest.mark.parametrize("direction", list(Direction))
async def test_pages_continue_across_partitions(log: Log, direction: Direction) -> None:
    records = [record(NOON_MS + hour * 3_600_000, account_id=A) for hour in range(-30, 30)]
    await log.write.add(records)
    found: list[str] = []
    query = list_query(since_ms=0, before_ms=NOON_MS * 2, direction=direction, limit=13)
    while True:
        page = await reads(log.read).page(query)
        found += ids(page)
        if page.after is None:
            break
        query = ListQuery((A,), 0, NOON_MS * 2, direction, 13, after=page.after)
    expected = hexes(*records)
    assert found == (expected if direction is Direction.ASC else expected[::-1])


async def test_an_exactly_full_page_can_be_the_last(log: Log) -> None:
    await log.write.add([record(NOON_MS + number, account_id=A) for number in range(5)])
    assert (await reads(log.read).page(list_query(limit=5))).after is None
    page = await reads(log.read).page(list_query(limit=4))
    assert (len(page.records), page.after is not None) == (4, True)


async def test_a_page_ends_early_if_bodies_are_large(log: Log) -> None:
    body = '"' + "x" * (PAGE_BYTES_MAX // 4) + '"'
    await log.write.add(
        [record(NOON_MS + number, account_id=A, resource_request=body) for number in range(9)]
    )
    page = await reads(log.read).page(list_query(direction=Direction.ASC))
    assert 0 < len(page.records) < 9
    assert page.after is not None
    rest = await reads(log.read).page(list_query(direction=Direction.ASC, after=page.after))
    assert ids(rest)[0] not in ids(page)


async def test_one_record_larger_than_a_page_is_a_page(log: Log) -> None:
    huge = '"' + "x" * PAGE_BYTES_MAX * 2 + '"'
    await log.write.add(
        [record(NOON_MS + number, account_id=A, resource_response=huge) for number in range(2)]
    )
    page = await reads(log.read).page(list_query())
    assert (len(page.records), page.after is not None) == (1, True)


async def test_only_records_of_the_account_are_returned(log: Log) -> None:
    mine = record(NOON_MS, account_id=A)
    await log.write.add([mine, record(NOON_MS, account_id=B), record(NOON_MS, account_id=None)])
    assert ids(await reads(log.read).page(list_query())) == hexes(mine)


@pytest.mark.parametrize("direction", list(Direction))
async def test_records_with_a_backfilled_account_are_in_order(log: Log, direction: Direction) -> None:
    records = [record(NOON_MS + number, account_id=A if number % 3 else None) for number in range(30)]
    await log.write.add(records)
    for one in records[::3]:
        await log.write.complete(one.id, account_id=A, account_name="Acme")
    expected = hexes(*records)
    if direction is Direction.DESC:
        expected.reverse()
    first = await reads(log.read).page(list_query(direction=direction, limit=11))
    rest = await reads(log.read).page(list_query(direction=direction, limit=100, after=first.after))
    assert ids(first) + ids(rest) == expected
    late = next(one for one in rest.records if one.id in hexes(*records[::3]))
    assert (late.account.id, late.account.name, late.auditap.enrichment) == (A, "Acme", "complete")


async def test_backfilled_values_fill_missing_ones_and_replace_none(log: Log) -> None:
    bare = record(NOON_MS, account_id=A, zone_id="z", actor_email="known@example.com")
    await log.write.add([bare])
    await log.write.complete(
        bare.id,
        state="unresolvable",
        account_name="Acme",
        zone_name="example.com",
        actor_email="later@example.com",
        actor_token_name="ci",
    )
    (found,) = (await reads(log.read).page(list_query())).records
    assert found.account.name == "Acme"
    assert found.zone.name == "example.com"
    assert found.actor.email == "known@example.com"
    assert found.actor.token_name == "ci"
    assert found.auditap.enrichment == "unresolvable"


async def test_a_backfilled_account_does_not_replace_a_stored_one(log: Log) -> None:
    theirs = record(NOON_MS, account_id=B)
    await log.write.add([theirs])
    await log.write.complete(theirs.id, account_id=A)
    assert ids(await reads(log.read).page(list_query())) == []


async def test_bodies_and_receipt_are_returned_as_stored(log: Log) -> None:
    request = '{"price":1.10, "big":1e400,"nul":"\\u0000","lone":"\\ud800","n":12345678901234567890123}'
    one = record(
        NOON_MS,
        account_id=A,
        resource_request=request,
        resource_response="null",
        receipt='{"unmatched" : "no_path"}',
    )
    await log.write.add([one])
    (found,) = (await reads(log.read).page(list_query())).records
    text = msgspec.json.encode(found)
    # As text, because clients in Go reject the page otherwise.
    shown = request.replace("1e400", '"1e400"')
    assert b'"request":' + shown.encode() in text
    assert b'"response":{"value":null}' in text
    assert b'"receipt":{"unmatched" : "no_path"}' in text


EXAMPLE: dict[str, Any] = {
    **POLICY_UPDATE,
    "action_result": "failure",
    "action_type": "delete",
    "actor_token_id": "t1",
    "actor_token_name": "deploy",
    "exchange_host": "api.example.com",
    "raw_method": "DELETE",
    "raw_status_code": 403,
    "zone_id": "z1",
    "zone_name": "example.com",
}
OF_RECEIPT = {"unmatched": "invalid_path", "altered": "true"}
LATE = ("account_name", "actor_email", "actor_token_name", "zone_name")


@pytest.mark.parametrize("name", [name for name in FILTERS if name != "id"])
async def test_a_filter_and_its_negation_partition_the_records(log: Log, name: str) -> None:
    columns: dict[str, Any]
    if name in OF_RECEIPT:
        value: Any = OF_RECEIPT[name]
        columns = {"receipt": '{"operation":"é","unmatched":"invalid_path","altered":true}'}
    else:
        value = ip_interface(EXAMPLE[name]) if name == "actor_ip_address" else EXAMPLE[name]
        columns = {name: EXAMPLE[name]}
    hit = record(NOON_MS, account_id=A, **columns)
    lacking = record(NOON_MS + 1, account_id=A)
    late = record(NOON_MS + 2, account_id=None, **({} if name in LATE else columns))
    await log.write.add([hit, lacking, late])
    await log.write.complete(late.id, account_id=A, **(columns if name in LATE else {}))
    found = await reads(log.read).page(list_query(Condition(name, False, (value,)), direction=Direction.ASC))
    others = await reads(log.read).page(list_query(Condition(name, True, (value,)), direction=Direction.ASC))
    assert ids(found) == hexes(hit, late)
    assert ids(others) == hexes(lacking)


async def test_a_record_is_found_by_its_id(log: Log) -> None:
    records = [record(NOON_MS + number, account_id=A) for number in range(3)]
    await log.write.add(records)
    wanted = Condition("id", False, (records[0].id, records[2].id))
    assert ids(await reads(log.read).page(list_query(wanted, direction=Direction.ASC))) == hexes(
        records[0], records[2]
    )


async def test_values_are_ored_and_filters_anded(log: Log) -> None:
    records = [
        record(NOON_MS + number, account_id=A, raw_method=method, raw_status_code=status)
        for number, (method, status) in enumerate([("PUT", 200), ("POST", 200), ("PUT", 403), ("GET", 200)])
    ]
    await log.write.add(records)
    methods = Condition("raw_method", False, ("PUT", "POST"))
    status = Condition("raw_status_code", True, (403,))
    page = await reads(log.read).page(list_query(methods, status, direction=Direction.ASC))
    assert ids(page) == hexes(*records[:2])


@pytest.mark.parametrize(
    ("network", "count"),
    [("203.0.113.0/24", 2), ("203.0.113.7/24", 2), ("2001:db8::/32", 1), ("0.0.0.0/0", 3)],
)
async def test_a_network_matches_its_addresses(log: Log, network: str, count: int) -> None:
    addresses = ["203.0.113.9", "203.0.113.200", "198.51.100.1", "2001:db8::7", None]
    await log.write.add(
        [
            record(NOON_MS + number, account_id=A, actor_ip_address=address)
            for number, address in enumerate(addresses)
        ]
    )
    condition = Condition("actor_ip_address", False, (ip_interface(network),))
    page = await reads(log.read).page(list_query(condition))
    assert len(page.records) == count


async def test_addresses_are_returned_without_a_mask(log: Log) -> None:
    await log.write.add([record(NOON_MS, account_id=A, actor_ip_address="2001:db8::7")])
    (found,) = (await reads(log.read).page(list_query())).records
    assert found.actor.ip_address == "2001:db8::7"


async def test_several_accounts_and_any_account(log: Log) -> None:
    mine, theirs, nobodys = (record(NOON_MS + at, account_id=one) for at, one in enumerate((A, B, None)))
    late = record(NOON_MS + 3, account_id=None)
    await log.write.add([mine, theirs, nobodys, late])
    await log.write.complete(late.id, account_id=B)
    both = ListQuery((A, B), NOON_MS, NOON_MS + 1000, Direction.ASC)
    assert ids(await reads(log.read).page(both)) == hexes(mine, theirs, late)
    every = ListQuery(None, NOON_MS, NOON_MS + 1000, Direction.ASC)
    assert ids(await reads(log.read).page(every)) == hexes(mine, theirs, nobodys, late)


@pytest.mark.parametrize("accounts", [(A,), (A, B), None])
async def test_a_backfilled_email_is_found_in_any_accounts(
    log: Log, accounts: tuple[str, ...] | None
) -> None:
    known = record(NOON_MS, account_id=A, actor_email="one@example.com")
    later = record(NOON_MS + 1, account_id=A)
    both_later = record(NOON_MS + 2, account_id=None)
    other = record(NOON_MS + 3, account_id=A, actor_email="two@example.com")
    await log.write.add([known, later, both_later, other])
    await log.write.complete(later.id, actor_email="one@example.com")
    await log.write.complete(both_later.id, account_id=A, actor_email="one@example.com")
    await log.write.complete(other.id, actor_email="one@example.com")
    condition = Condition("actor_email", False, ("one@example.com",))
    query = ListQuery(accounts, NOON_MS - 20 * DAY_MS, NOON_MS + 1000, Direction.ASC, conditions=(condition,))
    assert ids(await reads(log.read).page(query)) == hexes(known, later, both_later)


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("accounts", [(A,), (A, B), None])
async def test_backfilled_values_are_found_far_from_the_start_of_the_page(
    log: Log, accounts: tuple[str, ...] | None, direction: Direction
) -> None:
    """Beyond the first window, an index finds records, and separate access paths find backfilled values."""
    hour_ms = 3_600_000
    early, late = (NOON_MS - 20 * hour_ms, NOON_MS)
    far = early if direction is Direction.DESC else late
    near = late if direction is Direction.DESC else early
    await log.write.add([record(near + number, account_id=A) for number in range(1_500)])
    known = record(far, account_id=A, actor_email="one@example.com")
    later = record(far + 1, account_id=A)
    both_later = record(far + 2, account_id=None)
    await log.write.add([known, later, both_later])
    await log.write.complete(later.id, actor_email="one@example.com")
    await log.write.complete(both_later.id, account_id=A, actor_email="one@example.com")
    condition = Condition("actor_email", False, ("one@example.com",))
    query = ListQuery(accounts, early - 1, late + hour_ms, direction, limit=20, conditions=(condition,))
    expected = hexes(known, later, both_later)
    found = ids(await reads(log.read).page(query))
    assert found == (expected[::-1] if direction is Direction.DESC else expected)


async def test_the_first_records_are_skipped(log: Log) -> None:
    records = [record(NOON_MS + number, account_id=A, raw_method="PUT") for number in range(20)]
    await log.write.add(records)
    for conditions in ((), (Condition("raw_method", False, ("PUT",)),)):
        page = await reads(log.read).page(list_query(*conditions, direction=Direction.ASC, limit=5, skip=10))
        assert ids(page) == hexes(*records[10:15])
        assert (await reads(log.read).page(list_query(*conditions, limit=5, skip=20))).records == []


async def test_ids_are_those_of_the_page(log: Log) -> None:
    records = [record(NOON_MS + number, account_id=A) for number in range(5)]
    await log.write.add(records)
    query = list_query(direction=Direction.ASC, limit=3)
    assert list(await reads(log.read).ids(query)) == [one.id for one in records[:3]]


async def test_records_by_id_are_limited_to_the_account(log: Log) -> None:
    mine, theirs = record(NOON_MS, account_id=A), record(NOON_MS - 2 * DAY_MS, account_id=B)
    late = record(NOON_MS - DAY_MS, account_id=None)
    await log.write.add([mine, theirs, late])
    await log.write.complete(late.id, account_id=A)
    wanted = [late.id, theirs.id, mine.id, first_id_at(NOON_MS)]
    assert [one.id for one in await reads(log.read).records((A,), wanted)] == hexes(late, mine)
    assert [one.id for one in await reads(log.read).records(None, wanted)] == hexes(late, theirs, mine)


async def test_records_by_id_end_early_if_bodies_are_large(log: Log) -> None:
    body = '"' + "x" * (PAGE_BYTES_MAX // 4) + '"'
    records = [record(NOON_MS + number, account_id=A, resource_request=body) for number in range(9)]
    await log.write.add(records)
    found = await reads(log.read).records((A,), [one.id for one in records])
    assert 0 < len(found) <= 9
    assert [one.id for one in found] == hexes(*records[: len(found)])


async def test_logins_are_selected_by_product_and_type(log: Log) -> None:
    kinds = [("access", "login"), ("access", "policies"), ("dns", "login"), (None, "login"), ("access", None)]
    records = [
        record(NOON_MS + at, account_id=A, resource_product=product, resource_type=kind)
        for at, (product, kind) in enumerate(kinds)
    ]
    await log.write.add(records)
    page = await reads(log.read).page(list_query(Condition(LOGINS, False, ("login", "logout"))))
    assert ids(page) == hexes(records[0])


@pytest.mark.parametrize(
    ("pattern", "excluded", "expected"),
    [
        ("%@example.com%", False, [0, 1]),
        ("%1\\%\\_%", False, [2]),
        ("%\\\\%", False, []),
        ("%@example.com%", True, [2, 3]),
    ],
)
async def test_an_email_pattern_matches_a_substring(
    log: Log, pattern: str, excluded: bool, expected: list[int]
) -> None:
    emails = ["one@example.com", "two@example.com", "1%_2@elsewhere", None]
    records = [record(NOON_MS + at, account_id=A, actor_email=email) for at, email in enumerate(emails)]
    await log.write.add(records)
    page = await reads(log.read).page(
        list_query(Condition(LOGIN_EMAIL_PATTERN, excluded, (pattern,)), direction=Direction.ASC)
    )
    assert ids(page) == hexes(*(records[at] for at in expected))


LOGIN_BODIES = [
    None,
    "[]",
    '"allowed"',
    "null",
    '{"allowed":true}',
    '{"allowed":"true","user_email":7,"country":null}',
    '{"allowed":false,"user_email":"one@example.com","app_type":"saas","country":"pt","connection":"okta"}',
    # Escapes that Postgres has no character for, and a backslash before what only looks like one.
    r'{"nul":"\u0000","lone":"\ud800","path":"c:\\\\u0000","allowed":false,"connection":"okta"}',
    r'{"\u0000":1,"country":"p\u0074"}',
    # A whole surrogate pair between lone halves, and a number that is no float of 64 bits.
    r'{"country":"\ud83d\ud83d\ude00\ude00 \\ud83d\ude00","allowed" : true ,"n":1e400}',
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (LOGIN_EMAIL, "one@example.com"),
        (LOGIN_EMAIL_PATTERN, "%one@%"),
        ("allowed", "true"),
        ("allowed", "false"),
        ("app_type", "saas"),
        ("app_uid", "app1"),
        ("country_code", "pt"),
        ("country_code", "\U0001f600 \\ud83d"),
        ("idp", "okta"),
        ("non_identity", "true"),
        ("ray_id", "ray1"),
    ],
)
async def test_filters_of_logins_compare_what_entries_show(
    postgres_log: PostgresLogDatabase, stored_log: StoredLog, memory_log: MemoryLog, name: str, value: str
) -> None:
    pairs = [(request, response) for request in LOGIN_BODIES for response in LOGIN_BODIES]
    records = [
        record(
            NOON_MS + at,
            account_id=A,
            action_result=("success", "failure")[at % 2],
            actor_email=(None, "two@example.com", "one@example.com")[at % 3],
            raw_cf_ray_id=(None, "ray1")[at % 2],
            resource_id=(None, "app1")[at % 2],
            resource_request=request,
            resource_response=response,
        )
        for at, (request, response) in enumerate(pairs)
    ]
    await memory_log.add(records)
    await stored_log.add(records)
    for excluded in (False, True):
        query = list_query(Condition(name, excluded, (value,)))
        found = await memory_log.ids(query)
        assert 0 < len(found) < len(records)
        assert await reads(postgres_log).ids(query) == found


def test_every_filter_of_logins_has_its_own_name() -> None:
    # `app_uid` and the others share a table with the filters of the list.
    assert not set(LOGIN_FILTERS) & set(FILTERS)


_VALUES = {
    Field.ACTION_RESULT: ("failure", "success"),
    Field.ACTOR_IP_ADDRESS: ("192.0.2.1", "2001:db8::1"),
    Field.RAW_STATUS_CODE: ("200", "404"),
}


@pytest.mark.parametrize("field", list(Field))
async def test_counts_by_bucket_and_value(log: Log, field: Field) -> None:
    values = _VALUES.get(field, ("x", "y"))
    stored = [int(one) if field is Field.RAW_STATUS_CODE else one for one in values]
    records = [
        record(NOON_MS + number * 100, account_id=A if number else None, **{field: stored[number % 2]})
        for number in range(10)
    ]
    await log.write.add([*records, record(NOON_MS, account_id=B, **{field: stored[0]})])
    await log.write.complete(records[0].id, account_id=A)
    bounds = (NOON_MS, NOON_MS + 350, NOON_MS + 400, NOON_MS + 900)
    found = await reads(log.read).counts(SummaryQuery((A,), bounds, field))
    assert sorted(found) == [
        Count(0, values[0], 2),
        Count(0, values[1], 2),
        Count(2, values[0], 3),
        Count(2, values[1], 2),
    ]


async def test_counts_of_every_account_include_records_without_one(log: Log) -> None:
    await log.write.add([record(NOON_MS, account_id=one, actor_id="u1") for one in (A, B, None)])
    for accounts, count in [(None, 3), ((A, B), 2), ((A,), 1)]:
        asked = SummaryQuery(accounts, (NOON_MS, NOON_MS + 1), Field.ACTOR_ID)
        assert list(await reads(log.read).counts(asked)) == [Count(0, "u1", count)]


async def test_counts_include_missing_values_and_respect_filters(log: Log) -> None:
    await log.write.add(
        [record(NOON_MS, account_id=A, actor_id=None if number % 2 else "u1") for number in range(5)]
    )
    bounds = (NOON_MS, NOON_MS + 1)
    assert sorted(
        await reads(log.read).counts(SummaryQuery((A,), bounds, Field.ACTOR_ID)), key=lambda one: one.records
    ) == [Count(0, None, 2), Count(0, "u1", 3)]
    only = (Condition("actor_id", True, ("u1",)),)
    assert list(await reads(log.read).counts(SummaryQuery((A,), bounds, Field.ACTOR_ID, only))) == [
        Count(0, None, 2)
    ]


async def test_a_token_is_found_until_it_is_revoked(
    postgres_log: PostgresLogDatabase, stored_log: StoredLog
) -> None:
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    token_id, text = await create_token(
        stored_log.connection, "reader", [A, B], [Permission.AUDIT_LOGS], expires
    )
    sha256 = hashlib.sha256(text.encode()).digest()
    expected = Token(
        token_id,
        frozenset({A, B}),
        frozenset({Permission.AUDIT_LOGS}),
        int(expires.timestamp() * 1000),
        "reader",
        sha256=sha256,
    )
    assert await postgres_log.token(sha256) == expected
    await revoke_token(stored_log.connection, token_id)
    assert await postgres_log.token(sha256) is None


async def test_a_token_for_every_account_without_expiry(
    postgres_log: PostgresLogDatabase, stored_log: StoredLog
) -> None:
    _, text = await create_token(stored_log.connection, "all", None, [], datetime.max.replace(tzinfo=UTC))
    await stored_log.connection.execute("UPDATE auditap.api_tokens SET expires_at = 'infinity'")
    token = await postgres_log.token(hashlib.sha256(text.encode()).digest())
    assert token is not None
    assert token.accounts is None
    assert token.expires_ms > NOON_MS


async def test_an_unavailable_database_is_retryable(settings: LogApiConfig) -> None:
    unavailable = PostgresLogDatabase(
        f"postgresql://auditap_reader:x@127.0.0.1:{free_port()}/none", settings, Metrics()
    )
    await unavailable.start()
    try:
        with pytest.raises(RetryableError):
            await reads(unavailable).page(list_query())
        with pytest.raises(RetryableError):
            await unavailable.token(b"0" * 32)
        assert await unavailable.ready() is False
    finally:
        await unavailable.stop()
    with pytest.raises(RetryableError):
        await reads(unavailable).page(list_query())


async def test_a_connection_closed_by_the_server_is_replaced(
    postgres_log: PostgresLogDatabase, stored_log: StoredLog
) -> None:
    # All connections of the pool at once.
    assert await asyncio.gather(*(postgres_log.ready() for _ in range(6))) == [True] * 6
    await stored_log.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'auditap-log-api'"
        " AND datname = current_database()"
    )
    # No request fails.
    assert [await postgres_log.ready() for _ in range(6)] == [True] * 6


async def test_a_rejected_login_fails_at_start(audit_database: AuditDatabase, settings: LogApiConfig) -> None:
    refused = PostgresLogDatabase(
        audit_database.reader_dsn.replace("auditap_reader", "nobody"), settings, Metrics()
    )
    with pytest.raises(StartupError):
        await refused.start()


async def test_it_is_not_ready_before_the_database_is_migrated(database: str, settings: LogApiConfig) -> None:
    bare = PostgresLogDatabase(database, settings, Metrics())
    await bare.start()
    try:
        assert await bare.ready() is False
        with pytest.raises(RetryableError):
            await reads(bare).page(list_query())
    finally:
        await bare.stop()


async def test_a_statement_timeout_is_retryable(audit_database: AuditDatabase, stored_log: StoredLog) -> None:
    await stored_log.add([record(NOON_MS, account_id=A)])
    hasty = PostgresLogDatabase(
        audit_database.reader_dsn, LogApiConfig(cursor_key=b"k" * 32, statement_timeout_ms=50), Metrics()
    )
    await hasty.start()
    try:
        async with stored_log.connection.transaction():
            await stored_log.connection.execute("LOCK TABLE auditap.audit_records IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(RetryableError):
                await reads(hasty).page(list_query())
    finally:
        await hasty.stop()


async def test_a_record_shows_of_its_exchange_what_is_known(log: Log) -> None:
    known = {"exchange_host": "a.example", "exchange_duration_ms": 0, "exchange_response_bytes": 1 << 40}
    await log.write.add(
        [
            record(NOON_MS, account_id=A, **known),
            record(NOON_MS + 1, account_id=A, exchange_response_bytes=7),
            record(NOON_MS + 2, account_id=A),
        ]
    )
    found = (await reads(log.read).page(list_query(direction=Direction.ASC))).records
    assert [one.auditap.exchange for one in found] == [
        Exchange("a.example", 0, 1 << 40),
        Exchange(None, None, 7),
        None,
    ]


async def test_a_clamped_record_holds_the_time_its_tap_sent(log: Log) -> None:
    await log.write.add(
        [record(NOON_MS, account_id=A, clamped_from_ms=NOON_MS + 3_600_000), record(NOON_MS, account_id=A)]
    )
    found = (await reads(log.read).page(list_query())).records
    claimed = rfc3339_ms(NOON_MS + 3_600_000)
    assert {one.auditap.clamped_from for one in found} == {claimed, None}
    assert {one.action.time for one in found} == {rfc3339_ms(NOON_MS)}


@pytest.mark.parametrize("direction", Direction)
async def test_a_range_until_9999_is_read_to_its_end(
    audit_database: AuditDatabase, stored_log: StoredLog, direction: Direction
) -> None:
    await stored_log.add([record(NOON_MS, account_id=A)])
    settings = LogApiConfig(
        cursor_key=b"k" * 32, statement_timeout_ms=60_000, limits=unhurried(LogApiLimits())
    )
    reader = PostgresLogDatabase(audit_database.reader_dsn, settings, Metrics())
    await reader.start()
    try:
        until_9999_ms = 253_402_300_799_000
        page = await reads(reader).page(list_query(before_ms=until_9999_ms, direction=direction))
        nothing = await reads(reader).page(
            list_query(since_ms=NOON_MS + 1, before_ms=until_9999_ms, direction=direction)
        )
    finally:
        await reader.stop()
    assert (len(page.records), page.after) == (1, None)
    # Without the clipping this would end at the time limit, with a cursor.
    assert (nothing.records, nothing.after) == ([], None)


@pytest.mark.parametrize("direction", Direction)
async def test_a_range_from_1970_is_read_from_the_oldest_partition(
    postgres_log: PostgresLogDatabase,
    stored_log: StoredLog,
    direction: Direction,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statements: list[Statement] = []
    ordinary = Session.rows

    async def counted(self: Session, statement: Statement, timeout_s: float) -> Sequence[Row]:
        statements.append(statement)
        return await ordinary(self, statement, timeout_s)

    monkeypatch.setattr(Session, "rows", counted)
    await stored_log.add([record(NOON_MS, account_id=A)])
    page = await reads(postgres_log).page(list_query(since_ms=0, direction=direction))
    assert (len(page.records), page.after) == (1, None)
    # 640 spans of 32 days precede the first partition.
    assert len(statements) < 40


async def test_the_reader_cannot_write(postgres_log: PostgresLogDatabase) -> None:
    for pool in (postgres_log._pool, postgres_log._common):
        assert await pool.run(lambda session: session.value("SHOW default_transaction_read_only")) == "on"
        assert await pool.run(lambda session: session.value("SHOW statement_timeout")) == "10s"


async def note_heartbeat(
    connection: asyncpg.Connection, epoch: int, dropped: tuple[int, int], at_ms: int
) -> None:
    first, last = dropped
    await connection.execute(
        "SELECT auditap.note_heartbeat('t-1', $1, 1, $2::bigint, $2, $4::bigint, $4 + 1, $2, 60000, 'alive', $2,"
        " ARRAY[$3::bigint], ARRAY[$4], ARRAY['buffer_full'], ARRAY[$2 - 1], ARRAY[$2])",
        epoch,
        at_ms,
        first,
        last,
    )


async def test_without_taps_there_is_no_watermark(postgres_log: PostgresLogDatabase) -> None:
    assert await postgres_log.complete_before_ms() is None


async def test_gaps_of_a_range_are_listed_earliest_first_and_counted(
    postgres_log: PostgresLogDatabase, memory_log: MemoryLog, stored_log: StoredLog
) -> None:
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    assert await reads(postgres_log).gaps(0, now_ms, 10) == ([], 0, 0)
    for epoch in range(3):
        at_ms = now_ms - 1_000 + 100 * epoch
        await note_heartbeat(stored_log.connection, epoch, (1, 137 + epoch), at_ms)
        ours = (
            "t-1",
            epoch,
            None,
            None,
            1,
            137 + epoch,
            137 + epoch,
            at_ms - 1,
            at_ms,
            "dropped:buffer_full",
        )
        memory_log.gap_list.append(Gap(*ours))
    await stored_log.connection.execute(
        "SELECT auditap.note_lost_offsets('events', 3, 100, 149, NULL, $1)", now_ms
    )
    memory_log.gap_list.append(Gap(None, None, "events", 3, 100, 149, 50, 0, now_ms, "offsets_expired"))
    for since_ms, before_ms, gaps_max in [
        (0, now_ms, 10),
        (0, now_ms, 2),
        (now_ms - 950, now_ms - 850, 10),
        (now_ms - 900, now_ms - 899, 10),
        (now_ms + 1, now_ms + 2, 10),
    ]:
        found = await reads(postgres_log).gaps(since_ms, before_ms, gaps_max)
        assert found == await memory_log.gaps(since_ms, before_ms, gaps_max)
    assert await postgres_log.complete_before_ms() is not None
    assert (await reads(postgres_log).taps())[:2] == (3, 0)
    await stored_log.connection.execute(
        "UPDATE auditap.tap_epochs SET surplus = epoch = 0, retired = epoch > 0"
    )
    assert (await reads(postgres_log).taps())[3:] == (1, 2)


OF_POLICY = {"resource_id": "p1", "resource_product": "alerting", "resource_type": "policies"}
POLICY = ResourceKey(A, "alerting", "policies", "p1")


async def changes(
    log: Log, *wanted: WantedChanges, accounts: tuple[str, ...] | None = (A,)
) -> list[tuple[list[str], bool]]:
    found: Sequence[ResourceChanges] = await reads(log.read).resource_changes(accounts, wanted)
    return [([one.id for one in each.records], each.whole) for each in found]


def policy(at_ms: int, **changes: Any) -> Record:
    return record(at_ms, **{"account_id": A, **OF_POLICY, **changes})


async def test_the_changes_of_a_resource(log: Log) -> None:
    mine = [policy(NOON_MS + hour * 3_600_000) for hour in range(-40, 40, 8)]
    others = [
        policy(NOON_MS, **other)
        for other in (
            {"account_id": B},
            {"account_id": None},
            {"resource_id": "p2"},
            {"resource_product": "queues"},
            {"resource_product": None},
            {"resource_type": None},
            {"action_type": "view"},
            {"action_result": "failure"},
        )
    ]
    await log.write.add([*mine, *others])
    last = mine[-2].id
    assert await changes(log, WantedChanges(POLICY, last, 20)) == [(hexes(*mine[:-1]), True)]
    assert await changes(log, WantedChanges(POLICY, last, 4)) == [(hexes(*mine[-5:-1]), False)]
    assert await changes(log, WantedChanges(POLICY, UUID(int=0), 4)) == [([], True)]
    assert await changes(log, WantedChanges(POLICY, mine[-1].id, 20)) == [(hexes(*mine), True)]


async def test_the_changes_of_several_resources_in_their_order(log: Log) -> None:
    untyped = {"resource_product": None, "resource_type": None}
    first, second, third = policy(NOON_MS), policy(NOON_MS + 1, **untyped), policy(NOON_MS + 2, account_id=B)
    await log.write.add([first, second, third])
    keys = [
        POLICY._replace(account=B),
        POLICY._replace(product=None, type=None),
        POLICY,
        POLICY._replace(id="x"),
    ]
    wanted = [WantedChanges(key, third.id, 9) for key in keys]
    assert await changes(log, *wanted, accounts=None) == [
        (hexes(third), True),
        (hexes(second), True),
        (hexes(first), True),
        ([], True),
    ]


async def test_changes_of_an_account_that_is_not_the_callers_are_not_read(log: Log) -> None:
    theirs = policy(NOON_MS, account_id=B)
    await log.write.add([theirs])
    wanted = WantedChanges(POLICY._replace(account=B), theirs.id, 9)
    [(found, _)] = await changes(log, wanted, accounts=(A,))
    assert found == []


async def test_changes_include_records_with_a_backfilled_account(log: Log) -> None:
    records = [policy(NOON_MS + number, account_id=None if number % 2 else A) for number in range(8)]
    theirs, view = policy(NOON_MS, account_id=None), policy(NOON_MS, account_id=None, action_type="view")
    await log.write.add([*records, theirs, view])
    for one in records[1::2]:
        await log.write.complete(one.id, account_id=A)
    await log.write.complete(theirs.id, account_id=B)
    await log.write.complete(view.id, account_id=A)
    assert await changes(log, WantedChanges(POLICY, records[6].id, 9)) == [(hexes(*records[:7]), True)]
    assert await changes(log, WantedChanges(POLICY, records[6].id, 3)) == [(hexes(*records[4:7]), False)]


async def test_changes_before_a_body_that_is_too_large_are_left_out(
    postgres_log: LogDatabase, stored_log: StoredLog
) -> None:
    log = Log(postgres_log, stored_log)
    body = '"' + "x" * (PAGE_BYTES_MAX // 4) + '"'
    records = [policy(NOON_MS + number, resource_request=body) for number in range(9)]
    await log.write.add(records)
    [(found, whole)] = await changes(log, WantedChanges(POLICY, records[-1].id, 20))
    assert 0 < len(found) < 9
    assert (found, whole) == (hexes(*records[-len(found) :]), False)


@pytest.mark.parametrize("account", [A, None])
async def test_changes_beyond_many_views_are_not_looked_for(
    postgres_log: LogDatabase, stored_log: StoredLog, account: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(postgres_log, stored_log)
    monkeypatch.setattr("log_api.resource_changes._EXAMINED_MAX", 10)
    first, last = policy(NOON_MS, account_id=account), policy(NOON_MS + 99, account_id=account)
    views = [policy(NOON_MS + 1 + number, account_id=account, action_type="view") for number in range(20)]
    await log.write.add([first, *views, last])
    if account is None:
        for one in [first, *views, last]:
            await log.write.complete(one.id, account_id=A)
    assert await changes(log, WantedChanges(POLICY, last.id, 5)) == [(hexes(last), False)]
