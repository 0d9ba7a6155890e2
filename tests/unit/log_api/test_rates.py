"""How often a token may ask."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.rates import RateLimits
from schemas.metric_defs import Metrics
from tests.unit.log_api.api_client import NOW_MS, TOKEN, A, ApiClient, add_token
from tests.unit.log_api.memory_log import MemoryLog

ONE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)


class Timer:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_burst_then_the_rate() -> None:
    timer = Timer()
    limits = RateLimits(3, 10, timer)
    assert [limits.wait_s(ONE, 2) for _ in range(4)] == [0, 0, 0, 1]
    timer.now_s += 0.5
    assert [limits.wait_s(ONE, 2) for _ in range(2)] == [0, 1]
    timer.now_s += 60
    assert [limits.wait_s(ONE, 2) for _ in range(4)] == [0, 0, 0, 1]


def test_each_token_for_itself() -> None:
    limits = RateLimits(1, 10, Timer())
    assert [limits.wait_s(ONE, 1), limits.wait_s(ONE, 1), limits.wait_s(OTHER, 1)] == [0, 1, 0]


def test_a_slow_rate_is_told_in_seconds() -> None:
    limits = RateLimits(1, 10, Timer())
    assert [limits.wait_s(ONE, 0.1), limits.wait_s(ONE, 0.1)] == [0, 10]


def test_what_is_refused_costs_nothing() -> None:
    timer = Timer()
    limits = RateLimits(1, 10, timer)
    limits.wait_s(ONE, 1)
    for _ in range(50):
        assert limits.wait_s(ONE, 1) == 1
    timer.now_s += 1
    assert limits.wait_s(ONE, 1) == 0


def test_the_memory_is_bounded() -> None:
    limits = RateLimits(1, 10, Timer())
    for number in range(100):
        limits.wait_s(uuid.UUID(int=number), 1)
    assert len(limits._buckets) == 10


@pytest.fixture
async def api(memory_log: MemoryLog) -> AsyncIterator[ApiClient]:
    settings = LogApiConfig(cursor_key=b"k" * 32, requests_burst=2, requests_per_s=0.01)
    client = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: NOW_MS), settings)
    yield client
    await client.close()


async def test_a_request_too_many(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, TOKEN, {A}, requests_per_s=None)
    add_token(memory_log, "quick", {A}, requests_per_s=1e6)
    statuses = [(await api.list({})).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = await api.list({"since": "not even right"})
    assert refused.json()["errors"] == [{"code": 10429, "message": "Too many requests, try again later"}]
    assert int(refused.headers["retry-after"]) == 100
    assert [(await api.list({}, token="quick")).status_code for _ in range(10)] == [200] * 10
