"""What every SDK must get of the log API. The tests of each SDK's file run what it can read."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, ClassVar

import pytest

from schemas.identity import rfc3339_ms
from schemas.record import Record
from tests.clients.known_records import known_records, read_v1, read_v2, shown_v1, shown_v2
from tests.clients.reading import Client, ClientFailedError
from tests.clients.served_log import (
    DAY_MS,
    NOW_MS,
    ORGANIZATION,
    ORGANIZATION_ACCOUNTS,
    SINCE_MS,
    ServedLog,
    new_account,
)
from tests.records import record

RANGE = {"since": rfc3339_ms(SINCE_MS), "before": rfc3339_ms(NOW_MS)}


def spread(account: str, count: int) -> list[Record]:
    """Return records from the first day of the range in no order, three in a millisecond."""
    places = [(number * 7919) % count for number in range(count)]
    return [record(SINCE_MS + place // 3 * 3 * DAY_MS // count, account_id=account) for place in places]


def newer(account: str, count: int) -> list[Record]:
    """Return records from the second day of the range, as they happen."""
    return [
        record(SINCE_MS + DAY_MS + number * DAY_MS // count, account_id=account) for number in range(count)
    ]


async def target_in(served: ServedLog) -> dict[str, str]:
    account = new_account()
    return {"base_url": served.base_url, "account": account, "token": await served.token(account)}


def _assert_once(found: Sequence[str], present: Sequence[Record], stored: Sequence[str]) -> None:
    assert max(Counter(found).values()) == 1
    assert {one.id.hex for one in present} <= set(found) <= set(stored)


class ReadsV2:
    """Audit logs v2, by cursor."""

    @pytest.mark.parametrize("direction", ["desc", "asc"])
    async def test_v2_every_record_once_while_others_arrive(
        self, client: Client, served: ServedLog, direction: str
    ) -> None:
        target = await target_in(served)
        present, later = spread(target["account"], 210), spread(target["account"], 90)
        await served.add(present)
        found: list[str] = []
        async with aclosing(client.pages("v2", **target, **RANGE, per_page=40, direction=direction)) as pages:
            async for page in pages:
                found += [one["id"] for one in page.records]
                await served.add(later[:15])
                del later[:15]
        arrived = len(found) - len(present)
        _assert_once(found, present, await served.stored(target["account"]))
        assert found == sorted(found, reverse=direction == "desc")
        assert arrived > 0

    async def test_v2_every_value_as_it_was_recorded(self, client: Client, served: ServedLog) -> None:
        target = await target_in(served)
        records = known_records(target["account"])
        await served.add(records)
        found: list[Any] = []
        async with aclosing(client.pages("v2", **target, **RANGE, per_page=70)) as pages:
            async for page in pages:
                found += page.records
                # Beside what the SDK knows there is what is ours, and nothing else.
                assert set(page.unexpected) <= {".auditap"}
        newest_first = sorted(records, key=lambda one: one.id, reverse=True)
        for decoded, one in zip(found, newest_first, strict=True):
            assert read_v2(decoded) == shown_v2(one)

    async def test_v2_filter_in_the_clients_spelling(self, client: Client, served: ServedLog) -> None:
        target = await target_in(served)
        records = known_records(target["account"])
        await served.add(records)
        found = await client.read("v2", **target, **RANGE, not_result="failure")
        assert {one["id"] for one in found} == {
            one.id.hex for one in records if one.action_result != "failure"
        }


class ReadsMoreOfV2:
    """What only the current versions know: organizations and histories."""

    async def test_an_organization(self, client: Client, served: ServedLog) -> None:
        records = [one for account in ORGANIZATION_ACCOUNTS for one in known_records(account)]
        await served.add(records)
        target = {"base_url": served.base_url, "token": await served.token(*ORGANIZATION_ACCOUNTS)}
        found: list[str] = []
        async with aclosing(
            client.pages("organization", **target, **RANGE, organization=ORGANIZATION, per_page=400)
        ) as pages:
            async for page in pages:
                found += [one["id"] for one in page.records]
                # The SDK knows no account and no zone of an organization's record, which we show all the same.
                assert set(page.unexpected) <= {".auditap", ".account", ".zone"}
        stored = [await served.stored(account) for account in ORGANIZATION_ACCOUNTS]
        assert found == sorted(itertools.chain(*stored), reverse=True)

    async def test_a_history(self, client: Client, served: ServedLog) -> None:
        target = await target_in(served)
        of = {"account_id": target["account"], "resource_id": "p1", "resource_product": "alerting"}
        changes = [record(SINCE_MS + number, resource_type="policies", **of) for number in range(9)]
        await served.add([*changes, *spread(target["account"], 30)])
        found = await client.read("history", **target, **RANGE, record=changes[4].id.hex)
        assert [one["id"] for one in found] == [one.id.hex for one in reversed(changes)]


class ReadsV1:
    """Audit logs v1, by page number."""

    async def test_v1_every_record_once_while_newer_ones_arrive(
        self, client: Client, served: ServedLog
    ) -> None:
        target = await target_in(served)
        present, later = spread(target["account"], 130), newer(target["account"], 60)
        await served.add(present)
        found: list[str] = []
        async with aclosing(client.pages("v1", **target, per_page=40, direction="asc")) as pages:
            async for page in pages:
                found += [one["id"] for one in page.records]
                await served.add(later[:15])
                del later[:15]
        _assert_once(found, present, await served.stored(target["account"]))
        assert found == sorted(found)

    async def test_v1_from_the_newest_on_before_a_time(self, client: Client, served: ServedLog) -> None:
        target = await target_in(served)
        present, later = spread(target["account"], 130), newer(target["account"], 60)
        await served.add(present)
        before = rfc3339_ms(NOW_MS - DAY_MS)
        found: list[str] = []
        async with aclosing(client.pages("v1", **target, per_page=40, before=before)) as pages:
            async for page in pages:
                found += [one["id"] for one in page.records]
                await served.add(later[:15])
                del later[:15]
        assert found == sorted((one.id.hex for one in present), reverse=True)

    async def test_v1_every_value_as_it_was_recorded(self, client: Client, served: ServedLog) -> None:
        target = await target_in(served)
        records = known_records(target["account"])
        await served.add(records)
        found: list[Any] = []
        async with aclosing(client.pages("v1", **target, per_page=70)) as pages:
            async for page in pages:
                found += page.records
                assert set(page.unexpected) <= {".newValueJson", ".oldValueJson"}
        newest_first = sorted(records, key=lambda one: one.id, reverse=True)
        for decoded, one in zip(map(read_v1, found), newest_first, strict=True):
            shown = shown_v1(one)
            assert decoded == {name: shown[name] for name in decoded}


class ShowsErrors:
    """The errors of the log API, as the client's own types."""

    kinds: ClassVar[dict[int, str]]
    """The client's own type of each status."""
    reads = "v1"

    @pytest.mark.parametrize(
        ("status", "code"),
        [(400, 10400), (401, 10000), (403, 10000), (404, 7003)],
    )
    async def test_an_error(self, client: Client, served: ServedLog, status: int, code: int) -> None:
        target: dict[str, Any] = {**await target_in(served), **RANGE}
        wrong: dict[int, dict[str, Any]] = {
            400: {"per_page": 5000},
            401: {"token": "atp_unknown"},
            403: {"account": new_account()},
            404: {"account": "x" * 300},
        }
        with pytest.raises(ClientFailedError) as failed:
            await client.read(self.reads, **(target | wrong[status]))
        assert failed.value.codes == [code]
        assert failed.value.kind == self.kinds[status]
        assert failed.value.status == (status if client.statuses else 0)

    async def test_it_waits_as_long_as_it_is_told(self, client: Client, hurried: ServedLog) -> None:
        """The token may send a request a second after the first few; the client tries again by itself."""
        account = new_account()
        await hurried.add(spread(account, 50))
        target = {
            "base_url": hurried.base_url,
            "account": account,
            "token": await hurried.token(account, requests_per_s=1),
        }
        if not client.retries:
            with pytest.raises(ClientFailedError) as failed:
                await client.read(self.reads, **target, **RANGE, per_page=10)
            assert failed.value.codes == [10429]
            return
        refused = hurried.requests_refused()
        found = await client.read(self.reads, **target, **RANGE, per_page=20, retries=20)
        assert len({one["id"] for one in found}) == len(found) == 50
        assert hurried.requests_refused() > refused
