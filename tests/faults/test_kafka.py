"""Kafka hangs, ends and fills up, under load."""

from __future__ import annotations

import pytest

from tests.faults import faults
from tests.faults.conftest import Weather
from tests.faults.system import System


async def test_kafka_frozen(weather: Weather) -> None:
    """For longer than the publish deadline (3 s here): senders are told so, and send again."""
    assert not (await weather(faults.kafka_frozen, 5)).dead_letters


async def test_kafka_killed_and_started_again(weather: Weather) -> None:
    assert not (await weather(faults.kafka_killed, 1)).dead_letters


async def test_kafkas_disk_full(weather: Weather, system: System) -> None:
    if not system.kafka_disk.mounted:
        pytest.skip("this user may not mount a small disk: run the tests as root to see Kafka's disk full")
    assert not (await weather(faults.kafka_disk_full, 4)).dead_letters
