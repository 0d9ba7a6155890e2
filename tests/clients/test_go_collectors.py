"""Collectors that others wrote in Go, as they poll and decode."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from schemas.identity import rfc3339_ms
from tests.clients.known_records import known_records
from tests.clients.reading import Client, go_poller_by_seconds, go_poller_of_one_page, go_scraper
from tests.clients.sdk_contract import RANGE, newer, spread, target_in
from tests.clients.served_log import SINCE_MS, ServedLog
from tests.records import record

USER = "one@example.com"


@pytest.mark.parametrize("client", [go_scraper], indirect=True)
async def test_a_scraper_asks_who_it_is_and_reads_until_a_page_is_empty(
    client: Client, served: ServedLog
) -> None:
    target = await target_in(served)
    key = await served.token(target["account"], email=USER)
    await served.add(spread(target["account"], 230))
    found = await client.read("v1", **target, since=RANGE["since"], email=USER, key=key)
    assert sorted(one["id"] for one in found) == await served.stored(target["account"])


@pytest.mark.parametrize(
    ("client", "reads"),
    [(go_poller_by_seconds, "v2"), (go_poller_of_one_page, "v1")],
    indirect=["client"],
)
async def test_a_watermark_in_whole_seconds_loses_nothing(
    client: Client, served: ServedLog, reads: str
) -> None:
    """Of the newest second, records are read again; the poller drops them by their ids."""
    target = await target_in(served)
    later = newer(target["account"], 60)
    # In the second of the last one, and in its millisecond.
    later += [record(later[-1].id.int >> 80, account_id=target["account"]) for _ in range(3)]
    later += [record((later[-1].id.int >> 80) + 249, account_id=target["account"]) for _ in range(3)]
    await served.add(spread(target["account"], 80))
    found: list[str] = []
    async with aclosing(client.pages(reads, **target, **RANGE, per_page=100)) as polls:
        async for poll in polls:
            found += [one["id"] for one in poll.records]
            if not later and not poll.records:
                break
            await served.add(later[:16])
            del later[:16]
    assert sorted(found) == await served.stored(target["account"])


@pytest.mark.parametrize("client", [go_poller_by_seconds], indirect=True)
async def test_a_poller_decodes_every_value(client: Client, served: ServedLog) -> None:
    target = await target_in(served)
    await served.add(known_records(target["account"]))
    async with aclosing(client.pages("v2", **target, **RANGE, per_page=100)) as polls:
        first = await anext(polls)
    assert sorted(one["id"] for one in first.records) == await served.stored(target["account"])
    assert first.records[0]["action"]["time"] == rfc3339_ms(SINCE_MS).replace(".000Z", "Z")
