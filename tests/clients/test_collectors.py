"""Collectors that others wrote, as they poll: nothing is lost while records arrive, and every entry has the shape they read."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from schemas.identity import rfc3339_ms
from schemas.record import Record
from tests.clients.collectors import Collector, Downloader, ElasticCel, ElasticHttpjson, Logzio, Xsoar
from tests.clients.known_records import known_records, shown_v1
from tests.clients.sdk_contract import RANGE, newer, spread
from tests.clients.served_log import SINCE_MS, ServedLog, new_account
from tests.records import record

SINCE = rfc3339_ms(SINCE_MS)
USER = "one@example.com"


class Source:
    """An account in a served log, and what a collector needs to read it."""

    def __init__(self, served: ServedLog, account: str, token: str, key: str) -> None:
        self.served = served
        self.account = account
        self.by_token = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self.by_key = {"X-Auth-Email": USER, "X-Auth-Key": key}
        self._collectors: list[Collector] = []

    def collector(self, make: Callable[..., Any], *arguments: Any, by_key: bool = False) -> Any:
        headers = self.by_key if by_key else self.by_token
        made = make(self.served.base_url, self.account, headers, *arguments)
        self._collectors.append(made)
        return made

    async def close(self) -> None:
        for collector in self._collectors:
            await collector.close()


@pytest.fixture
async def source(served: ServedLog) -> AsyncIterator[Source]:
    account = new_account()
    opened = Source(served, account, await served.token(account), await served.token(account, email=USER))
    yield opened
    await opened.close()


def logins(account: str, count: int) -> list[Record]:
    """Return sign-ins, every third of them denied with status 200, every second without a ray id."""
    return [
        record(
            SINCE_MS + number // 3 * 700,
            account_id=account,
            actor_email=random.Random(number).choice([USER, "CORP\\alice", None]),
            raw_cf_ray_id=f"ray{number}" if number % 2 else None,
            resource_product="access",
            resource_type="login",
            resource_response='{"allowed":false}' if number % 3 == 0 else '{"allowed":true}',
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("kind", [ElasticCel, ElasticHttpjson])
async def test_elastic_indexes_every_record_while_others_arrive(
    source: Source, kind: type[ElasticCel | ElasticHttpjson]
) -> None:
    later = newer(source.account, 60)
    await source.served.add(spread(source.account, 130))
    elastic = source.collector(kind, SINCE, by_key=kind is ElasticHttpjson)
    is_last = False
    while not is_last:
        is_last = not later
        while await elastic.poll():
            await source.served.add(later[:15])
            del later[:15]
    assert set(elastic.passed_on) == set(await source.served.stored(source.account))


async def test_elastic_can_parse_every_value(source: Source) -> None:
    records = known_records(source.account)
    await source.served.add(records)
    elastic = source.collector(ElasticCel, SINCE)
    while await elastic.poll():
        pass
    for one in records:
        document, shown = elastic.passed_on[one.id.hex], shown_v1(one)
        assert document["@timestamp"].timestamp() * 1000 == pytest.approx(one.id.int >> 80)
        assert document["event.outcome"] == one.action_result
        assert document["user.email"] == shown["actor"].get("email")
        assert document["source.ip"] is None or str(document["source.ip"]) == one.actor_ip_address


async def test_xsoar_fetches_account_logs_while_others_arrive(source: Source) -> None:
    later = newer(source.account, 60)
    await source.served.add(spread(source.account, 130))
    xsoar = source.collector(Xsoar, SINCE, f"/accounts/{source.account}/audit_logs", by_key=True)
    xsoar.page_size = 40
    while later:
        await xsoar.poll()
        await source.served.add(later[:15])
        del later[:15]
    await xsoar.poll()
    assert set(xsoar.passed_on) == set(await source.served.stored(source.account))
    assert xsoar.repeats == 0


async def test_xsoar_reads_every_field_that_it_maps(source: Source) -> None:
    records = known_records(source.account)
    await source.served.add(records)
    xsoar = source.collector(Xsoar, SINCE, f"/accounts/{source.account}/audit_logs", by_key=True)
    await xsoar.poll()
    for one in records:
        event, shown = xsoar.passed_on[one.id.hex], shown_v1(one)
        assert {name: event[name] for name in shown} == shown
        assert event["interface"] == ("UI" if one.actor_context == "dash" else "API")
        assert isinstance(event["metadata"], dict)
        assert isinstance(event["newValue"], str)
        assert event["oldValueJson"] == json.loads(event["oldValue"] or "{}")
    assert any(event["oldValueJson"] for event in xsoar.passed_on.values())


async def test_xsoar_fetches_what_its_user_did(source: Source) -> None:
    records = known_records(source.account)
    await source.served.add(records)
    xsoar = source.collector(Xsoar, SINCE, "/user/audit_logs", by_key=True)
    await xsoar.poll()
    assert set(xsoar.passed_on) == {one.id.hex for one in records if one.actor_email == USER}


async def test_xsoar_fetches_sign_ins(source: Source) -> None:
    records = logins(source.account, 90)
    await source.served.add([*records, *spread(source.account, 30)])
    xsoar = source.collector(
        Xsoar, SINCE, f"/accounts/{source.account}/access/logs/access_requests", by_key=True
    )
    xsoar.page_size = 40
    await xsoar.poll()
    await xsoar.poll()
    assert xsoar.repeats == 0
    assert {one.id.hex for one in records} == set(xsoar.passed_on)
    for number, one in enumerate(records):
        event = xsoar.passed_on[one.id.hex]
        assert event["allowed"] is (number % 3 != 0)
        assert event["user_email"] == one.actor_email
        assert event["ray_id"] == (one.raw_cf_ray_id or one.id.hex)


async def test_logzio_follows_the_numbers_of_the_pages(source: Source) -> None:
    later = newer(source.account, 60)
    await source.served.add(spread(source.account, 230))
    logzio = source.collector(Logzio, SINCE)
    while later:
        await logzio.poll()
        await source.served.add(later[:15])
        del later[:15]
    await logzio.poll()
    assert set(logzio.passed_on) == set(await source.served.stored(source.account))


async def test_a_parameter_of_another_version_is_ignored(source: Source) -> None:
    records = spread(source.account, 90)
    await source.served.add(records)
    downloader = source.collector(Downloader)
    await downloader.download(**RANGE)
    assert set(downloader.passed_on) == {one.id.hex for one in records}


async def test_what_a_collector_asks_first(source: Source) -> None:
    async with httpx.AsyncClient(
        base_url=source.served.base_url, headers=source.by_key, timeout=120
    ) as client:
        user = (await client.get("/user")).json()["result"]
        accounts = (await client.get("/accounts")).json()["result"]
        token = (await client.get(f"/accounts/{source.account}/tokens/verify")).json()["result"]
    assert user["email"] == USER
    assert [one["id"] for one in accounts] == [source.account]
    assert token["status"] == "active"
