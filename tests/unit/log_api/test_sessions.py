"""The explorer's session: a cookie in place of a token, for the explorer's own page alone."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from typing import Any

import httpx
import jwt
import pytest

from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.ports import Permission, Token
from log_api.sessions import COOKIE, Purpose, Sessions, SignedToken
from schemas.metric_defs import Metrics
from tests.unit.log_api.api_client import NOW_MS, RANGE, TOKEN, A, ApiClient, B, add_token
from tests.unit.log_api.memory_log import MemoryLog

KEY = b"k" * 32
BEARER = {"Authorization": f"Bearer {TOKEN}"}
OWN_PAGE = {"X-Auditap-Request": "1"}
LIST = f"/accounts/{A}/logs/audit"
SHA256 = hashlib.sha256(TOKEN.encode()).digest()
HOUR_MS = 3_600_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def token(memory_log: MemoryLog) -> Token:
    return add_token(memory_log, TOKEN, {A}, *Permission, for_ms=48 * HOUR_MS)


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(KEY, clock)


@pytest.fixture
async def api(memory_log: MemoryLog, clock: Clock, token: Token) -> AsyncIterator[ApiClient]:
    settings = LogApiConfig(cursor_key=KEY)
    client = ApiClient(log_api_app(memory_log, settings, Metrics(), clock), settings)
    yield client
    await client.close()


async def sign_in(api: ApiClient, bearer: str = TOKEN) -> httpx.Response:
    return await api.get("/session", headers={"Authorization": f"Bearer {bearer}"}, method="POST")


def cookie_of(response: httpx.Response) -> dict[str, str]:
    """Return the request header that sends a response's cookie back."""
    return {"Cookie": f"{COOKIE}={SimpleCookie(response.headers['set-cookie'])[COOKIE].value}"}


def cookie(value: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={value}"}


async def test_a_token_becomes_a_session_that_reads_what_the_token_may(api: ApiClient, token: Token) -> None:
    response = await sign_in(api)
    assert response.json()["result"] == {
        "token": {
            "id": token.id.hex,
            "name": token.name,
            "email": None,
            "expires_on": "2026-01-25T18:25:14.749Z",
            "permissions": sorted(Permission),
            "accounts": [A],
        },
        "expires_on": "2026-01-24T06:25:14.749Z",
    }
    session = cookie_of(response)
    shown = await api.get("/session", headers=session)
    assert shown.json() == response.json()
    assert (await api.get(LIST, RANGE, session)).status_code == 200
    assert (await api.get(f"/accounts/{B}/logs/audit", RANGE, session)).status_code == 403


async def test_the_cookie_is_for_the_page_alone_and_holds_no_token(api: ApiClient) -> None:
    header = (await sign_in(api)).headers["set-cookie"]
    attributes = {part.strip().partition("=")[0].lower() for part in header.split(";")[1:]}
    # Without Path and Domain, the cookie is for the API below the path and on the host that the browser sees.
    assert attributes == {"httponly", "samesite"}
    assert "samesite=strict" in header.lower()
    assert TOKEN not in header


@pytest.mark.parametrize("proto", ["https", "http"])
async def test_the_cookie_is_secure_behind_a_proxy_that_ends_https(api: ApiClient, proto: str) -> None:
    headers = BEARER | {"X-Forwarded-Proto": proto}
    response = await api.get("/session", headers=headers, method="POST")
    assert ("secure" in response.headers["set-cookie"].lower()) == (proto == "https")


async def test_a_sign_in_code_begins_a_session_and_does_nothing_else(
    api: ApiClient, sessions: Sessions, clock: Clock
) -> None:
    code = sessions.sign_in_code(SHA256)
    assert (await api.list(token=code)).status_code == 401
    assert (await api.get(LIST, RANGE, cookie(code))).status_code == 401
    session = cookie_of(await sign_in(api, code))
    assert (await api.get(LIST, RANGE, session)).status_code == 200
    clock.now_ms += 15 * 60_000
    assert (await sign_in(api, code)).status_code == 401


async def test_a_session_ends_after_twelve_hours_and_cannot_prolong_itself(
    api: ApiClient, clock: Clock
) -> None:
    session = cookie_of(await sign_in(api))
    again = await api.get("/session", headers=session | OWN_PAGE, method="POST")
    assert again.status_code == 401
    # Its value is no token either.
    assert (await sign_in(api, session["Cookie"].partition("=")[2])).status_code == 401
    clock.now_ms += 12 * HOUR_MS - 1
    assert (await api.get("/session", headers=session)).status_code == 200
    clock.now_ms += 1
    assert (await api.get("/session", headers=session)).status_code == 401


async def test_a_session_ends_with_its_token(api: ApiClient, memory_log: MemoryLog, clock: Clock) -> None:
    add_token(memory_log, "short", {A}, for_ms=HOUR_MS)
    session = cookie_of(await sign_in(api, "short"))
    clock.now_ms += HOUR_MS
    assert (await api.get("/session", headers=session)).status_code == 401


async def test_a_revoked_token_ends_its_sessions(memory_log: MemoryLog, sessions: Sessions) -> None:
    add_token(memory_log, TOKEN, {A})
    session = cookie(sessions.cookie(SignedToken(SHA256, NOW_MS + HOUR_MS)))
    memory_log.tokens.clear()
    settings = LogApiConfig(cursor_key=KEY)
    api = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: NOW_MS), settings)
    assert (await api.get("/session", headers=session)).status_code == 401
    await api.close()


async def test_signing_out_removes_the_cookie(api: ApiClient) -> None:
    session = cookie_of(await sign_in(api))
    response = await api.get("/session", headers=session | OWN_PAGE, method="DELETE")
    assert "max-age=0" in response.headers["set-cookie"].lower()
    assert cookie_of(response) == cookie("")


@pytest.mark.parametrize(
    "headers",
    [{}, OWN_PAGE | {"Sec-Fetch-Site": "cross-site"}, OWN_PAGE | {"Sec-Fetch-Site": "same-site"}],
    ids=["no header of the page", "another site", "another host of the site"],
)
async def test_another_site_changes_nothing_with_the_cookie(api: ApiClient, headers: dict[str, str]) -> None:
    session = cookie_of(await sign_in(api))
    response = await api.get("/session", headers=session | headers, method="DELETE")
    assert response.status_code == 403
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_another_site_reads_nothing_with_the_cookie(api: ApiClient, site: str) -> None:
    session = cookie_of(await sign_in(api))
    for path in (LIST, f"{LIST}/export", f"{LIST}/tail"):
        assert (await api.get(path, RANGE, session | {"Sec-Fetch-Site": site})).status_code == 403


async def test_a_token_needs_no_header_of_the_page(api: ApiClient) -> None:
    headers = BEARER | {"Sec-Fetch-Site": "cross-site"}
    assert (await api.get(LIST, RANGE, headers)).status_code == 200


async def test_two_cookies_are_none(api: ApiClient, memory_log: MemoryLog) -> None:
    """Another host of the domain can set a cookie for this one, to sign a person in as somebody else."""
    add_token(memory_log, "other", {B})
    mine, others = cookie_of(await sign_in(api)), cookie_of(await sign_in(api, "other"))
    both = f"{mine['Cookie']}; {others['Cookie']}"
    assert (await api.get("/session", headers={"Cookie": both})).status_code == 401
    two_headers = [("Cookie", mine["Cookie"]), ("Cookie", others["Cookie"])]
    assert (await api.get("/session", headers=two_headers)).status_code == 401


async def test_credentials_go_before_the_cookie(api: ApiClient) -> None:
    session = cookie_of(await sign_in(api))
    for headers in ({"Authorization": "Bearer wrong"}, {"X-Auth-Key": TOKEN}):
        assert (await api.get("/session", headers=session | headers)).status_code == 401


def signed(key: Any, algorithm: str = "HS256", **claims: object) -> str:
    valid = {"aud": Purpose.SESSION.value, "sub": SHA256.hex(), "expires_ms": NOW_MS + HOUR_MS}
    return jwt.encode(valid | claims, key, algorithm)


FORGERIES = {
    "another key": signed(b"x" * 32),
    "the cursor key itself": signed(KEY),
    "no algorithm": signed(None, "none"),
    "no signature": signed(KEY).rpartition(".")[0] + ".",
    "the token": TOKEN,
    "too long": "a" * 5_000,
    "no JWT": "a.b.c",
    "not ASCII": "\u00e9",
    "empty": "",
}


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES)
async def test_a_forged_cookie_is_refused(api: ApiClient, forged: str) -> None:
    headers = [("Cookie", cookie(forged)["Cookie"].encode("latin-1"))]
    response = await api.get("/session", headers=headers)  # type: ignore[arg-type]
    assert response.status_code == 401


async def test_another_cursor_key_ends_sessions(api: ApiClient, clock: Clock) -> None:
    other = Sessions(b"o" * 32, clock)
    session = cookie(other.cookie(SignedToken(SHA256, NOW_MS + HOUR_MS)))
    assert (await api.get("/session", headers=session)).status_code == 401


async def test_signing_in_has_the_rate_limit_of_the_token(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, "slow", {A}, requests_per_s=0.001)
    statuses = [(await sign_in(api, "slow")).status_code for _ in range(201)]
    assert (statuses[0], statuses[-1]) == (200, 429)
