from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from auditap_tap import REQUEST_HEADERS, encoding
from auditap_tap.buffer import PairBuffer
from auditap_tap.capture import HeaderSelection
from auditap_tap.exchange import Receive, Scope, Send
from schemas.capture import body_bytes
from tests.unit.auditap_tap.apps import END, START, call, echo, one_route, sends
from tests.unit.auditap_tap.tapped import CANARY, Collector, Wrap, client_of, eventually, held_bytes


def test_a_header_that_stands_many_times_hides_no_other() -> None:
    selection = HeaderSelection(["cf-ray", "x-http-method-override", "x-tenant-*"])
    many = [(b"X-Tenant-%d" % number, b"t") for number in range(99)]
    rays = [(b"CF-Ray", b"%d" % number) for number in range(99)]
    asked = [(b"X-HTTP-Method-Override", value) for value in (b"POST", b"PUT", b"POST", b"DELETE")]
    selected = selection.select([*many, *rays, *asked])
    assert selected[:4] == [
        (b"cf-ray", b"0"),
        (b"cf-ray", b"98"),
        (b"x-http-method-override", b"POST"),
        (b"x-http-method-override", b"DELETE"),
    ]
    assert len(selected) == 64
    assert selection.select(asked) == [(name.lower(), value) for name, value in asked]


def test_a_name_with_underscores_is_copied_as_written() -> None:
    """A WSGI service cannot tell `X_HTTP_Method_Override` from the header with dashes."""
    selection = HeaderSelection(["x-http-method-override", "x-tenant-*", "X_Zone"])
    names = [b"X_HTTP_Method_Override", b"x-http_method-override", b"X_Tenant_Id", b"x-zone", b"x_zone"]
    others = [b"x_http_method", b"authorization", b"x_tenan"]
    selected = selection.select([(name, b"PUT") for name in (*names, *others)])
    assert selected == [(name.lower(), b"PUT") for name in names]


def test_spellings_with_underscores_hide_no_other_header() -> None:
    dashed = b"x-a-b-c-d-e-f-g-h"
    selection = HeaderSelection([dashed.decode(), "x-http-method-override"])
    spellings = [
        b"".join(map(bytes, zip(b"xabcdefgh", (*signs, 0x20), strict=True))).strip()
        for signs in product(b"-_", repeat=8)
    ]
    selected = selection.select([*((name, b"1") for name in spellings), (b"x_http_method_override", b"PUT")])
    assert selected == [
        (dashed, b"1"),
        (spellings[1], b"1"),
        (spellings[-1], b"1"),
        (b"x_http_method_override", b"PUT"),
    ]


def test_no_header_with_an_exact_name_is_hidden_by_many_others() -> None:
    """A method override that is not copied leads to the marks of another operation."""
    names = [f"x-chosen-{number}" for number in range(70)]
    selection = HeaderSelection([*names, "x-http-method-override", "x-tenant-*"])
    headers = [(name.encode(), b"1") for name in names for _ in range(2)]
    selected = selection.select([*headers, (b"x-tenant-id", b"t"), (b"x-http-method-override", b"PUT")])
    assert selected == [*headers, (b"x-http-method-override", b"PUT")]


@pytest.mark.parametrize("name", [b"x-forwarded-for", b"Forwarded"])
def test_a_client_cannot_push_the_end_of_a_chain_of_proxies_out_of_the_copy(name: bytes) -> None:
    selection = HeaderSelection(REQUEST_HEADERS)
    by_proxies = [(name, b"203.0.113.9"), (name, b"10.0.0.2")]
    made_up = [(name, b"198.51.100.%d" % number) for number in range(99)]
    [(_, chain)] = selection.select([*made_up, *by_proxies])
    assert chain.startswith(b"198.51.100.0, 198.51.100.1, ")
    assert chain.endswith(b"198.51.100.98, 203.0.113.9, 10.0.0.2")
    [(_, chain)] = selection.select([(name, b"198.51.100.1, " * 9_999 + b"203.0.113.9")])
    assert (len(chain), chain[-13:]) == (16_384, b", 203.0.113.9")
    lines = [(name, b"198.51.100.1, " * 100)] * 99
    [(_, chain)] = selection.select([*lines, *by_proxies])
    assert (len(chain), chain[-23:]) == (16_384, b", 203.0.113.9, 10.0.0.2")


def test_a_long_token_is_copied_whole_and_no_header_without_end() -> None:
    selection = HeaderSelection(["cf-access-jwt-assertion"])
    [(_, token)] = selection.select([(b"Cf-Access-Jwt-Assertion", b"t" * 16_384)])
    assert len(token) == 16_384
    [(_, cut)] = selection.select([(b"Cf-Access-Jwt-Assertion", b"begins" + b"t" * 99_999)])
    assert (len(cut), cut[:6]) == (16_384, b"begins")


async def test_headers_that_are_not_selected_never_enter_the_buffer(wrap: Wrap) -> None:
    seen: list[Any] = []

    async def handler(request: Request) -> Response:
        answer = JSONResponse({}, headers={"set-cookie": CANARY, "x-secret": CANARY, "x-actor-email": "e"})
        answer.headers["X-Tenant-Id"] = "t"
        return answer

    tap = wrap(one_route(handler), request_headers=["X-Extra"], response_headers=["x-tenant-*"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairBuffer, "put", lambda _, pair: seen.append(pair))
        async with client_of(tap) as client:
            secret = {
                "authorization": CANARY,
                "cookie": CANARY,
                "x-api-key": CANARY,
                "proxy-authorization": CANARY,
            }
            copied = {"x-extra": "kept", "x-http-method-override": "DELETE", "x-request-id": "r1"}
            await client.post("/", headers={**secret, **copied})
    [pair] = seen
    assert {name for name, _ in pair.request_headers} >= {
        b"x-extra",
        b"x-http-method-override",
        b"x-request-id",
    }
    assert sorted(name for name, _ in pair.response_headers) == [
        b"content-length",
        b"content-type",
        b"x-actor-email",
        b"x-tenant-id",
    ]
    held = [getattr(pair, name) for name in pair.__slots__]
    assert CANARY not in repr(held)
    assert CANARY not in encoding.encode_pair(pair, "t-1", 1).decode()
    assert repr(pair) == "<pair>"


async def test_repeated_headers_stay_repeated(collector: Collector, wrap: Wrap) -> None:
    async def handler(request: Request) -> Response:
        answer = Response()
        answer.headers.append("x-actor-id", "a")
        answer.headers.append("x-actor-id", "b")
        answer.headers.append("set-cookie", "one=1")
        answer.headers.append("set-cookie", "two=2")
        return answer

    async with client_of(wrap(one_route(handler))) as client:
        answer = await client.get(
            "/", headers=[("x-request-id", "1"), ("x-request-id", "2"), ("x-request-id", "3")]
        )
        await eventually(lambda: len(collector.captures) == 1)
    assert answer.headers.get_list("set-cookie") == ["one=1", "two=2"]
    assert collector.captures[0].response.headers["x-actor-id"] == ["a", "b"]
    assert collector.captures[0].request.headers["x-request-id"] == ["1", "2", "3"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_bodies_of_reading_methods_are_not_copied(wrap: Wrap, method: str) -> None:
    reserved: list[int] = []

    def reserve(_: Any, size_bytes: int) -> bool:
        reserved.append(size_bytes)
        return True

    tap = wrap(one_route(echo))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairBuffer, "reserve", reserve)
        async with client_of(tap) as client:
            answer = await client.request(method, "/", content=b"{}")
            assert answer.content == (b"" if method == "HEAD" else b"{}")
            assert reserved == []
            await client.post("/", content=b"{}")
    assert reserved == [2, 2]


async def test_methods_without_bodies_are_a_setting(collector: Collector, wrap: Wrap) -> None:
    async with client_of(wrap(one_route(echo), methods_without_bodies=["post"])) as client:
        await client.request("GET", "/", content=b"{}")
        await client.post("/", content=b"{}")
        await eventually(lambda: len(collector.captures) == 2)
    read, written = collector.captures
    assert (body_bytes(read.request), body_bytes(read.response)) == (b"{}", b"{}")
    assert (body_bytes(written.request), body_bytes(written.response)) == (None, None)
    assert not written.request.truncated


async def test_a_body_over_the_bound_is_discarded_and_marked_truncated(
    collector: Collector, wrap: Wrap
) -> None:
    tap = wrap(one_route(echo), body_bytes_max=1_000)
    async with client_of(tap) as client:
        assert len((await client.post("/", content=b"x" * 1_000)).content) == 1_000
        assert len((await client.post("/", content=b"x" * 1_001)).content) == 1_001
        await eventually(lambda: tap.stats.accepted == 2)
    whole, cut = collector.captures
    assert not whole.request.truncated
    assert len(body_bytes(whole.response) or b"") == 1_000
    assert cut.request.truncated
    assert cut.response.truncated
    assert cut.response.complete
    assert body_bytes(cut.request) is body_bytes(cut.response) is None


async def test_a_discarded_body_releases_its_bytes(collector: Collector, wrap: Wrap) -> None:
    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await sends(START, END)(scope, receive, send)

    tap = wrap(reads, body_bytes_max=1_000)
    part = {"type": "http.request", "body": b"x" * 600, "more_body": True}
    await call(tap, messages=[part, part, {**part, "more_body": False}])
    await eventually(lambda: tap.stats.accepted == 1)
    assert collector.captures[0].request.truncated
    await eventually(lambda: held_bytes(tap) == 0)


async def test_a_body_that_the_application_never_read_is_marked_so(collector: Collector, wrap: Wrap) -> None:
    async def handler(request: Request) -> Response:
        return Response()

    async with client_of(wrap(one_route(handler))) as client:
        await client.post("/", content=b"unread")
        await client.post("/", content=b"")
        await eventually(lambda: len(collector.captures) == 2)
    # A collector that does not know `not_read` has to see that the body is not whole.
    assert [(each.request.not_read, each.request.truncated) for each in collector.captures] == [
        (True, True),
        (False, False),
    ]
