from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from enricher.circuit_breaker import FAILURES_MAX, CircuitBreaker
from enricher.config import HttpLookupConfig
from enricher.http_lookup import RESPONSE_BYTES_MAX, HttpLookup
from enricher.ports import NEVER_AN_ID, Absent, Found, Kind
from schemas.errors import RetryableError
from tests.fakes.clock import Clock
from tests.fakes.lookup import Behaviour, NameService

KEY = "4bb334f7c94c4a29a045f03944f072e5"
NAMED = Found(name="Example")


@asynccontextmanager
async def _http(
    service: NameService,
    *,
    failures_max: int = FAILURES_MAX,
    response_bytes_max: int = RESPONSE_BYTES_MAX,
    **settings: Any,
) -> AsyncIterator[HttpLookup]:
    given: dict[str, Any] = {
        "url": service.address + "/account/{key}",
        "pointers": {"name": "/result/name"},
        "timeout_ms": 60_000,
    } | settings
    look_up = HttpLookup(
        [HttpLookupConfig(kind=Kind.ACCOUNT, **given)],
        lambda name, _kind: CircuitBreaker(name, clock=Clock(), failures_max=failures_max),
        response_bytes_max,
    )
    yield look_up
    await look_up.stop()


def _responding(response: Response) -> Behaviour:
    async def answer(_request: Request) -> Response:
        return response

    return answer


async def _hang(request: Request) -> Response:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response()


async def _drip(_request: Request) -> Response:
    async def drops() -> AsyncIterator[bytes]:
        for _ in range(500):
            yield b" "
            await asyncio.sleep(0.01)

    return StreamingResponse(drops())


async def _flood(_request: Request) -> Response:
    async def waves() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * 65_536
            await asyncio.sleep(0)

    return StreamingResponse(waves())


async def test_the_key_is_percent_encoded_in_path_and_query(service: NameService) -> None:
    key = "a/../b?c=d&e#f%2f é"
    service.answers[Kind.ACCOUNT, key] = NAMED
    async with _http(service, key_syntax="(?s).*") as look_up:
        assert await look_up.look_up(Kind.ACCOUNT, key) == NAMED
    service.behaviour = _responding(JSONResponse({"result": {"name": "Example"}}))
    url = service.address + "/account/by-id?first=1&id={key}&last=2"
    async with _http(service, url=url, key_syntax="(?s).*") as look_up:
        assert await look_up.look_up(Kind.ACCOUNT, key) == NAMED
    assert dict(service.requests[-1].query_params) == {"first": "1", "id": key, "last": "2"}


@pytest.mark.parametrize(
    "key", ["..", ".", "...", "a/b", "a b", "a\n", "a?b", "é", "a\0", "%2e", "x" * 129, "http://elsewhere/"]
)
async def test_a_key_outside_the_syntax_is_never_sent(service: NameService, key: str) -> None:
    async with _http(service) as look_up:
        assert await look_up.look_up(Kind.ACCOUNT, key) == NEVER_AN_ID
    assert service.requests == []


async def test_a_key_of_dots_is_never_sent_whatever_the_syntax(service: NameService) -> None:
    async with _http(service, key_syntax=".*") as look_up:
        assert await look_up.look_up(Kind.ACCOUNT, "..") == NEVER_AN_ID
    assert service.requests == []


@pytest.mark.parametrize("status", [404, 410])
async def test_an_id_that_the_service_does_not_know_is_absent(service: NameService, status: int) -> None:
    service.behaviour = _responding(Response("no", status))
    async with _http(service) as look_up:
        assert await look_up.look_up(Kind.ACCOUNT, KEY) == Absent()


@pytest.mark.parametrize("status", [201, 204, 301, 304, 400, 401, 403, 408, 429, 500, 502, 503, 504])
async def test_any_other_status_is_a_failure(service: NameService, status: int) -> None:
    service.behaviour = _responding(Response(status_code=status))
    async with _http(service) as look_up:
        with pytest.raises(RetryableError, match=f"the account service responded with status {status}"):
            await look_up.look_up(Kind.ACCOUNT, KEY)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_service_that_asks_to_wait_is_left_alone(service: NameService, status: int) -> None:
    service.behaviour = _responding(Response(status_code=status, headers={"retry-after": "3600"}))
    async with _http(service) as look_up:
        for sentence in (f"status {status}", "circuit breaker", "circuit breaker"):
            with pytest.raises(RetryableError, match=sentence):
                await look_up.look_up(Kind.ACCOUNT, KEY)
    assert len(service.requests) == 1


async def test_redirects_are_not_followed(service: NameService) -> None:
    service.behaviour = _responding(RedirectResponse("/account/elsewhere", 307))
    async with _http(service) as look_up:
        with pytest.raises(RetryableError, match="status 307"):
            await look_up.look_up(Kind.ACCOUNT, KEY)
    assert len(service.requests) == 1


GZIPPED = Response(gzip.compress(b'{"result": {"name": "n"}}'), headers={"content-encoding": "gzip"})


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        (_hang, "did not respond in time"),
        (_drip, "did not respond in time"),
        (_flood, "too many bytes"),
        (_responding(Response("<html>")), "invalid JSON"),
        (_responding(JSONResponse({"result": {"name": 7}})), "unexpected shape"),
        (_responding(JSONResponse({"result": {"name": "x" * 513}})), "unexpected shape"),
        (_responding(GZIPPED), "encoding"),
    ],
)
async def test_slow_and_invalid_responses_are_failures(
    service: NameService, behaviour: Behaviour, cause: str
) -> None:
    service.behaviour = behaviour
    # Only what does not end by itself may meet the timeout.
    timeout_ms = 200 if behaviour in {_hang, _drip} else 60_000
    async with _http(service, timeout_ms=timeout_ms) as look_up:
        with pytest.raises(RetryableError, match=cause) as caught:
            await look_up.look_up(Kind.ACCOUNT, KEY)
    assert KEY not in str(caught.value)


async def test_the_limit_on_response_bytes_is_exact(service: NameService) -> None:
    body = b'{"result": {"name": "Example"}}'
    service.behaviour = _responding(Response(body))
    async with _http(service, response_bytes_max=len(body)) as look_up:
        assert await look_up.look_up(Kind.ACCOUNT, KEY) == NAMED
    async with _http(service, response_bytes_max=len(body) - 1) as look_up:
        with pytest.raises(RetryableError, match="too many bytes"):
            await look_up.look_up(Kind.ACCOUNT, KEY)


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", b"\x00\xff garbage\r\n\r\n"]
)
async def test_a_broken_connection_is_a_failure(greeting: bytes) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1")
    service = NameService()
    service.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, _http(service) as look_up:
        with pytest.raises(RetryableError, match="the account service cannot be reached"):
            await look_up.look_up(Kind.ACCOUNT, KEY)


async def test_a_refused_connection_is_a_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        service = NameService()
        service.address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with _http(service) as look_up:
            with pytest.raises(RetryableError, match="the account service cannot be reached"):
                await look_up.look_up(Kind.ACCOUNT, KEY)


async def test_headers_of_the_settings_are_sent_and_cookies_are_not_kept(service: NameService) -> None:
    answer = JSONResponse({"result": {"name": "Example"}}, headers={"set-cookie": "a=b"})
    service.behaviour = _responding(answer)
    async with _http(service, headers={"Authorization": "Bearer s3cret", "Accept": "text/json"}) as look_up:
        await look_up.look_up(Kind.ACCOUNT, KEY)
        await look_up.look_up(Kind.ACCOUNT, KEY)
    sent = [request.headers for request in service.requests]
    assert [headers["authorization"] for headers in sent] == ["Bearer s3cret"] * 2
    assert [headers.getlist("accept") for headers in sent] == [["text/json"]] * 2
    assert not any("cookie" in headers for headers in sent)


async def test_no_proxy_of_the_environment_is_used(
    service: NameService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    service.answers[Kind.ACCOUNT, KEY] = NAMED
    async with _http(service) as look_up:
        assert await look_up.look_up(Kind.ACCOUNT, KEY) == NAMED


async def test_no_log_line_holds_the_key(service: NameService, caplog: pytest.LogCaptureFixture) -> None:
    service.answers[Kind.ACCOUNT, KEY] = NAMED
    # A process of ours quiets this one, and with it this test where it ran before.
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="httpcore"):
        async with _http(service) as look_up:
            assert await look_up.look_up(Kind.ACCOUNT, KEY) == NAMED
            assert await look_up.look_up(Kind.ACCOUNT, "nobody") == Absent()
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("uvicorn")]
    assert ours  # of the libraries below us
    assert not [message for message in ours if KEY in message or "nobody" in message]


async def test_requests_in_flight_are_bounded(service: NameService) -> None:
    async def briefly(_request: Request) -> Response:
        while service.under_way_max < 3:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        return JSONResponse({"result": {"name": "Example"}})

    service.behaviour = briefly
    async with _http(service, concurrency_max=3) as look_up:
        await asyncio.gather(*(look_up.look_up(Kind.ACCOUNT, f"{n}") for n in range(20)))
    assert service.under_way_max == 3
    assert len(service.requests) == 20


async def test_waiting_for_a_slot_does_not_count_towards_the_timeout(
    service: NameService, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_respond, begun, timeout = asyncio.Event(), [], asyncio.timeout

    async def held(_request: Request) -> Response:
        await may_respond.wait()
        return JSONResponse({"result": {"name": "Example"}})

    def noted(delay_s: float | None) -> asyncio.Timeout:
        begun.append(delay_s)
        return timeout(delay_s)

    service.behaviour = held
    monkeypatch.setattr(asyncio, "timeout", noted)
    async with _http(service, concurrency_max=1, timeout_ms=54_321) as look_up:
        calls = [asyncio.create_task(look_up.look_up(Kind.ACCOUNT, f"{n}")) for n in range(4)]
        while not service.requests:
            await asyncio.sleep(0)
        # The time of those that wait has not begun.
        assert begun.count(54.321) == 1
        may_respond.set()
        assert await asyncio.gather(*calls) == [NAMED] * 4
    assert begun.count(54.321) == 4


async def test_timeouts_and_cancelled_calls_free_their_connections(
    service: NameService,
) -> None:
    service.behaviour = _hang
    async with _http(service, concurrency_max=2, timeout_ms=500, failures_max=1_000_000) as look_up:
        calls = [asyncio.create_task(look_up.look_up(Kind.ACCOUNT, f"{n}")) for n in range(6)]
        await asyncio.sleep(0)
        calls[0].cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] + [RetryableError] * 5
        service.behaviour = None
        service.answers[Kind.ACCOUNT, KEY] = NAMED
        assert [await until_found(look_up) for _ in range(4)] == [NAMED] * 4


async def until_found(look_up: HttpLookup) -> Found | Absent:
    """Ask again where a busy machine let the short timeout pass."""
    async with asyncio.timeout(60):
        while True:
            with suppress(RetryableError):
                return await look_up.look_up(Kind.ACCOUNT, KEY)


async def test_failures_open_the_circuit_breaker(service: NameService) -> None:
    service.behaviour = _responding(Response("down", 503))
    async with _http(service, failures_max=3) as look_up:
        for n in range(10):
            with pytest.raises(RetryableError):
                await look_up.look_up(Kind.ACCOUNT, f"{n}")
    assert len(service.requests) == 3


async def test_lookups_that_wait_for_a_slot_fail_once_the_circuit_breaker_opens(service: NameService) -> None:
    service.behaviour = _hang
    async with _http(service, concurrency_max=2, timeout_ms=100, failures_max=2) as look_up:
        calls = (look_up.look_up(Kind.ACCOUNT, f"{n}") for n in range(40))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {RetryableError}
    assert len(service.requests) <= 4


async def test_unknown_ids_and_invalid_responses_leave_the_circuit_breaker_closed(
    service: NameService,
) -> None:
    async with _http(service, failures_max=2) as look_up:
        for n in range(10):
            assert await look_up.look_up(Kind.ACCOUNT, f"{n}") == Absent()
        service.behaviour = _responding(JSONResponse({"result": {"name": ["a list"]}}))
        for n in range(10):
            with pytest.raises(RetryableError, match="unexpected shape"):
                await look_up.look_up(Kind.ACCOUNT, f"{n}")
    assert len(service.requests) == 20


@pytest.mark.parametrize(
    ("response_id", "is_accepted"), [(KEY, True), ("another", False), (None, False), (1, False), ({}, False)]
)
async def test_a_response_about_another_id_is_rejected(
    service: NameService, response_id: object, is_accepted: bool
) -> None:
    service.behaviour = _responding(JSONResponse({"result": {"id": response_id, "name": "Example"}}))
    async with _http(service, id_pointer="/result/id") as look_up:
        if is_accepted:
            assert await look_up.look_up(Kind.ACCOUNT, KEY) == NAMED
            return
        with pytest.raises(RetryableError, match="another id") as caught:
            await look_up.look_up(Kind.ACCOUNT, KEY)
    assert KEY not in str(caught.value)


async def test_a_number_matches_the_id_with_the_same_digits(service: NameService) -> None:
    service.behaviour = _responding(JSONResponse({"id": 4711, "name": "Example"}))
    async with _http(service, id_pointer="/id", pointers={"name": "/name"}) as look_up:
        assert await look_up.look_up(Kind.ACCOUNT, "4711") == NAMED
