"""Kafka hangs, ends and fills up, under load."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.pipeline import until
from tests.faults import faults
from tests.faults.conftest import Weather
from tests.faults.ledger import Count, count
from tests.faults.recreated_topic import topic_recreated
from tests.faults.system import System


async def test_kafka_frozen(weather: Weather) -> None:
    """For longer than the publish deadline (3 s here): senders are refused, and send again."""
    assert not (await weather(faults.kafka_frozen, 5)).dead_letters


async def test_kafka_killed_and_started_again(weather: Weather) -> None:
    assert not (await weather(faults.kafka_killed, 1)).dead_letters


async def test_kafka_killed_then_the_collector(weather: Weather) -> None:
    """Without a spool: what was accepted was on the log, the rest is sent again."""
    assert not (await weather(faults.kafka_and_collector_killed, 1)).dead_letters


async def test_what_a_collector_killed_without_kafka_did_not_accept_is_reported_as_dropped(
    system: System, report: Callable[[Count], None]
) -> None:
    """Without a spool: nothing is accepted while Kafka is away, and a sender that gives up reports it."""
    load = await system.loading(200)

    async def refused() -> bool:
        return load.answers["503"] > 3

    async with faults.kafka_and_collector_killed(system):
        await until(refused, 120, "refusals", load.describe)
        await load.abandon()
    accepted = len(load.accepted)
    await load.give_up()
    assert len(load.accepted) == accepted < load.offered

    found = await count(system, load)

    async def reported() -> bool:
        nonlocal found
        # What was on the log may come yet, also before the answer was cut off. The log reports what it lacks so far.
        found = await count(system, load)
        return not found.lost and found.reported == found.offered - found.records

    await until(reported, 120, "the rest as gaps", lambda: f"{found}, offered {found.offered}")
    report(found)
    assert (found.lost, found.gaps, found.duplicates, found.strangers, found.dead_letters) == (0, 0, 0, 0, 0)
    causes = await system.pipeline.fetch(
        "SELECT DISTINCT cause FROM auditap.completeness_gaps WHERE tap_id = $1", load.tap
    )
    assert [row["cause"] for row in causes] == ["dropped:collector_away"]


async def test_kafkas_disk_full(weather: Weather, system: System) -> None:
    if not system.kafka_disk.mounted:
        pytest.skip("this user may not mount a small disk: run the tests as root to see Kafka's disk full")
    assert not (await weather(faults.kafka_disk_full, 4)).dead_letters


async def test_a_topic_that_is_deleted_and_made_again_loses_nothing_that_came_after(weather: Weather) -> None:
    assert not (await weather(topic_recreated, 2)).dead_letters
