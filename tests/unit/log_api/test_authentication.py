from __future__ import annotations

import hashlib

import pytest
from starlette.datastructures import Headers

from log_api.authentication import Authenticator, read_credentials
from log_api.errors import ApiError
from log_api.sessions import Sessions
from schemas.errors import RetryableError
from tests.unit.log_api.api_client import NOW_MS, A, add_token
from tests.unit.log_api.memory_log import MemoryLog


class Clock:
    """Wall clock and monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.uptime_s = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def check_of(log: MemoryLog, clock: Clock, cached_max: int = 10) -> Authenticator:
    sessions = Sessions(b"k" * 32, lambda: clock.now_ms)
    return Authenticator(log, sessions, lambda: clock.now_ms, 2000, cached_max, timer=lambda: clock.uptime_s)


def presented(token: str) -> Headers:
    return Headers({"authorization": f"Bearer {token}"})


async def test_a_token_is_cached(memory_log: MemoryLog, clock: Clock) -> None:
    token = add_token(memory_log, "t", {A})
    check = check_of(memory_log, clock)
    for _ in range(3):
        assert await check.authenticate(presented("t"), "GET") == token
    assert memory_log.token_lookups == 1
    clock.uptime_s += 2
    await check.authenticate(presented("t"), "GET")
    assert memory_log.token_lookups == 2


async def test_a_revoked_token_is_rejected_when_its_cache_entry_expires(
    memory_log: MemoryLog, clock: Clock
) -> None:
    add_token(memory_log, "t", {A})
    check = check_of(memory_log, clock)
    await check.authenticate(presented("t"), "GET")
    memory_log.tokens.clear()
    # Setting the wall clock back does not prolong the cache entry.
    clock.now_ms -= 3_600_000
    clock.uptime_s += 2
    with pytest.raises(ApiError):
        await check.authenticate(presented("t"), "GET")


async def test_an_unknown_token_is_cached_as_long(memory_log: MemoryLog, clock: Clock) -> None:
    check = check_of(memory_log, clock)
    for _ in range(3):
        with pytest.raises(ApiError):
            await check.authenticate(presented("t"), "GET")
    assert memory_log.token_lookups == 1
    add_token(memory_log, "t", {A})
    clock.uptime_s += 2
    await check.authenticate(presented("t"), "GET")


async def test_a_cached_token_expires(memory_log: MemoryLog, clock: Clock) -> None:
    add_token(memory_log, "t", {A}, for_ms=500)
    check = check_of(memory_log, clock)
    await check.authenticate(presented("t"), "GET")
    clock.now_ms += 500
    with pytest.raises(ApiError):
        await check.authenticate(presented("t"), "GET")


async def test_the_cache_is_bounded(memory_log: MemoryLog, clock: Clock) -> None:
    check = check_of(memory_log, clock, cached_max=10)
    for number in range(100):
        with pytest.raises(ApiError):
            await check.authenticate(presented(str(number)), "GET")
    assert len(check._unknown) == 10


async def test_wrong_tokens_displace_no_right_one(memory_log: MemoryLog, clock: Clock) -> None:
    token = add_token(memory_log, "t", {A})
    check = check_of(memory_log, clock, cached_max=10)
    await check.authenticate(presented("t"), "GET")
    for number in range(100):
        with pytest.raises(ApiError):
            await check.authenticate(presented(str(number)), "GET")
    lookups = memory_log.token_lookups
    assert await check.authenticate(presented("t"), "GET") == token
    assert memory_log.token_lookups == lookups


async def test_only_hashes_are_cached(memory_log: MemoryLog, clock: Clock) -> None:
    add_token(memory_log, "t", {A})
    check = check_of(memory_log, clock)
    await check.authenticate(presented("t"), "GET")
    with pytest.raises(ApiError):
        await check.authenticate(presented("other"), "GET")
    assert set(check._unknown) == {hashlib.sha256(b"other").digest()}
    assert set(check._known) == {hashlib.sha256(b"t").digest()}


async def test_a_database_error_is_not_cached(memory_log: MemoryLog, clock: Clock) -> None:
    add_token(memory_log, "t", {A})
    check = check_of(memory_log, clock)
    memory_log.unavailable = True
    with pytest.raises(RetryableError):
        await check.authenticate(presented("t"), "GET")
    memory_log.unavailable = False
    await check.authenticate(presented("t"), "GET")


@pytest.mark.parametrize("email", ["one@example.com", "ONE@Example.com"])
async def test_a_token_with_an_address_works_as_x_auth_key(
    memory_log: MemoryLog, clock: Clock, email: str
) -> None:
    token = add_token(memory_log, "t", {A}, email="one@example.com")
    check = check_of(memory_log, clock)
    headers = Headers({"x-auth-email": email, "x-auth-key": "t"})
    assert await check.authenticate(headers, "GET") == token


@pytest.mark.parametrize(
    "headers",
    [
        [("x-auth-email", "two@example.com"), ("x-auth-key", "t")],
        [("x-auth-email", ""), ("x-auth-key", "t")],
        [("x-auth-key", "t")],
        [("x-auth-email", "one@example.com")],
        [("x-auth-email", "one@example.com"), ("x-auth-key", "t2")],
        [("x-auth-email", "one@example.com"), ("x-auth-key", "t"), ("x-auth-key", "t")],
        [("x-auth-email", "one@example.com"), ("x-auth-email", "one@example.com"), ("x-auth-key", "t")],
        [("x-auth-email", "one@example.com"), ("x-auth-key", "t"), ("authorization", "Bearer wrong")],
        [("x-auth-email", "one@example.com"), ("x-auth-key", "t"), ("authorization", "Basic t")],
        [("x-auth-email", "one@example.com"), ("x-auth-key", "nobodys")],
    ],
)
async def test_x_auth_key_without_its_address_is_rejected(
    memory_log: MemoryLog, clock: Clock, headers: list[tuple[str, str]]
) -> None:
    add_token(memory_log, "t", {A}, email="one@example.com")
    add_token(memory_log, "nobodys", {A})
    raw = [(name.encode(), value.encode()) for name, value in headers]
    with pytest.raises(ApiError) as refused:
        await check_of(memory_log, clock).authenticate(Headers(raw=raw), "GET")
    assert refused.value.status == 401


def test_the_repr_of_credentials_holds_no_token() -> None:
    found = read_credentials(presented("s3cret"))
    assert found is not None
    assert "s3cret" not in repr(found)
