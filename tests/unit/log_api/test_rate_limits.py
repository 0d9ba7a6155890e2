"""Rate limits of tokens."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.rate_limits import RateLimits
from schemas.metric_defs import Metrics
from tests.unit.log_api.api_client import NOW_MS, TOKEN, A, ApiClient, add_token
from tests.unit.log_api.memory_log import MemoryLog

ONE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)


class Timer:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_burst_is_followed_by_the_rate() -> None:
    timer = Timer()
    limits = RateLimits(3, 10, timer)
    assert [limits.wait_s(ONE, 2) for _ in range(4)] == [0, 0, 0, 1]
    timer.now_s += 0.5
    assert [limits.wait_s(ONE, 2) for _ in range(2)] == [0, 1]
    timer.now_s += 60
    assert [limits.wait_s(ONE, 2) for _ in range(4)] == [0, 0, 0, 1]


def test_each_token_has_its_own_limit() -> None:
    limits = RateLimits(1, 10, Timer())
    assert [limits.wait_s(ONE, 1), limits.wait_s(ONE, 1), limits.wait_s(OTHER, 1)] == [0, 1, 0]


def test_headers_say_what_is_left() -> None:
    timer = Timer()
    limits = RateLimits(4, 10, timer)
    left = []
    for _ in range(5):
        limits.wait_s(ONE, 0.5)
        left.append(limits.headers(ONE, 0.5)["Ratelimit"])
    timer.now_s += 3
    limits.wait_s(ONE, 0.5)
    left.append(limits.headers(ONE, 0.5)["Ratelimit"])
    assert left == [f'"default";r={r};t={t}' for r, t in ((3, 2), (2, 4), (1, 6), (0, 8), (0, 8), (0, 7))]
    assert limits.headers(ONE, 0.5)["Ratelimit-Policy"] == '"burst";q=4;w=8'


def test_the_wait_for_a_slow_rate_is_in_seconds() -> None:
    limits = RateLimits(1, 10, Timer())
    assert [limits.wait_s(ONE, 0.1), limits.wait_s(ONE, 0.1)] == [0, 10]


def test_rejected_requests_do_not_count() -> None:
    timer = Timer()
    limits = RateLimits(1, 10, timer)
    limits.wait_s(ONE, 1)
    for _ in range(50):
        assert limits.wait_s(ONE, 1) == 1
    timer.now_s += 1
    assert limits.wait_s(ONE, 1) == 0


def test_the_cache_is_bounded() -> None:
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


async def test_every_response_to_a_token_announces_its_rate_limit(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    add_token(memory_log, TOKEN, {A}, requests_per_s=0.001)
    responses = [await api.list({"limit": limit}) for limit in ("1", "0", "1")]
    announced = [(one.status_code, one.headers["ratelimit"].partition(";t=")[0]) for one in responses]
    assert announced == [(200, '"default";r=1'), (400, '"default";r=0'), (429, '"default";r=0')]
    assert {one.headers["ratelimit-policy"] for one in responses} == {'"burst";q=2;w=2000'}
    assert "ratelimit" not in (await api.list({}, token="unknown")).headers


async def test_too_many_requests_get_429(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, TOKEN, {A}, requests_per_s=None)
    add_token(memory_log, "quick", {A}, requests_per_s=1e6)
    statuses = [(await api.list({})).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = await api.list({"since": "not even right"})
    assert refused.json()["errors"] == [{"code": 10429, "message": "Too many requests, try again later"}]
    # By the true clock: less where it took a while to come here.
    assert 0 < int(refused.headers["retry-after"]) <= 100
    assert [(await api.list({}, token="quick")).status_code for _ in range(10)] == [200] * 10
