from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from auditap_tap.sequence import DropCause
from gateway_tap.receivers.ext_proc_messages import Part, decode_part
from gateway_tap.receivers.processed_exchange import ProcessedExchange
from gateway_tap.receivers.received_tap import BODY_BYTES_MAX, QUEUE_BYTES_MAX
from schemas.capture import body_bytes
from schemas.identity import parse_rfc3339_ms
from tests.unit.gateway_tap.receivers.ext_proc_wire import attributes, body, head, metadata, trailers
from tests.unit.gateway_tap.receivers.received import Received

EPOCH = 1_700_000_000_000_123
OK = head(
    3, {":status": "200", "content-type": "application/json", "x-actor-id": "bo", "set-cookie": "s3cret"}
)


def pass_through(received: Received, *messages: bytes) -> tuple[ProcessedExchange, list[bool]]:
    exchange = ProcessedExchange(received.tap)
    return exchange, [exchange.take(decode_part(message)) for message in messages]


def request(method: str = "POST", *, number: int = 1, is_last: bool = False, **texts: str) -> bytes:
    headers = {
        ":method": method,
        ":path": "/orders/1?a=b%20c",
        ":scheme": "https",
        ":authority": "api.example.com",
    }
    rest = metadata(EPOCH, number) + attributes(**{"source_address": "192.0.2.1:5", **texts})
    headers |= {"content-type": "application/json", "authorization": "Bearer s3cret", "x-request-id": "r-1"}
    return head(2, headers, is_last=is_last, rest=rest)


async def test_parts_become_a_capture(received: Received) -> None:
    pieces = (
        request(),
        body(4, b'{"a":'),
        body(4, b"1}", is_last=True),
        OK,
        body(5, b"{}"),
        body(5, b"", is_last=True),
    )
    _, ends = pass_through(received, *pieces)
    assert ends == [False] * 5 + [True]
    [capture] = await received.captures()
    assert (capture.request.method, capture.request.url) == (
        "POST",
        "https://api.example.com/orders/1?a=b%20c",
    )
    assert (capture.request.body, capture.response.body) == ('{"a":1}', "{}")
    assert capture.response.status == 200
    assert capture.response.complete
    assert capture.client_ip == "192.0.2.1"
    assert capture.request.headers == {
        "host": "api.example.com",
        "content-type": "application/json",
        "x-request-id": "r-1",
    }
    assert capture.response.headers == {"content-type": "application/json", "x-actor-id": "bo"}
    assert capture.tap is not None
    assert (capture.tap.id, capture.tap.seq) == ("edge", 1)


@pytest.mark.parametrize(
    ("end", "ending"),
    [(OK[:-2], trailers(7)), (OK, body(5, b"", is_last=True))],
    ids=["trailers", "an empty piece"],
)
async def test_a_response_ends(received: Received, end: bytes, ending: bytes) -> None:
    assert pass_through(received, request(is_last=True), end, ending)[1] == [False, False, True]
    [capture] = await received.captures()
    assert capture.response.complete
    assert not capture.request.not_read


async def test_a_request_ends_with_its_trailers(received: Received) -> None:
    pass_through(received, request(), body(4, b"{}"), trailers(6), OK, body(5, b"", is_last=True))
    [capture] = await received.captures()
    assert capture.request.body == "{}"


async def test_bodies_of_a_get_are_not_copied(received: Received) -> None:
    pass_through(received, request("GET", is_last=True), OK, body(5, b"s3cret", is_last=True))
    [capture] = await received.captures()
    assert body_bytes(capture.response) is None
    assert not capture.response.truncated


@pytest.mark.parametrize("content_type", ["text/event-stream", "image/png"])
async def test_bodies_that_are_never_recorded_are_not_copied(received: Received, content_type: str) -> None:
    response = head(3, {":status": "200", "content-type": content_type})
    pass_through(received, request(is_last=True), response, body(5, b"s3cret", is_last=True))
    [capture] = await received.captures()
    assert capture.response.truncated
    assert body_bytes(capture.response) is None


async def test_a_body_that_is_too_long_is_truncated(received: Received) -> None:
    pass_through(
        received, request(), body(4, b"x" * BODY_BYTES_MAX), body(4, b"x", is_last=True), OK, trailers(7)
    )
    [capture] = await received.captures()
    assert capture.request.truncated
    assert body_bytes(capture.request) is None


async def test_a_request_that_was_not_read_to_its_end_is_marked(received: Received) -> None:
    pass_through(received, request(), body(4, b"the beginning"), OK, body(5, b"{}", is_last=True))
    [capture] = await received.captures()
    assert capture.request.not_read
    assert capture.response.body == "{}"


@pytest.mark.parametrize(("declared", "is_read"), [("7", True), ("8", False), ("x", False)])
async def test_a_request_is_whole_when_all_bytes_have_passed(
    received: Received, declared: str, is_read: bool
) -> None:
    """By HTTP/2, the response may end before the frame that ends the request."""
    sent = head(2, {":method": "POST", ":path": "/", ":authority": "h", "content-length": declared})
    pass_through(received, sent, body(4, b'{"a":'), body(4, b"1}"), OK, body(5, b"{}", is_last=True))
    [capture] = await received.captures()
    assert capture.request.not_read != is_read
    assert capture.request.body == ('{"a":1}' if is_read else None)


async def test_a_client_that_leaves_before_the_response_is_recorded_as_such(received: Received) -> None:
    exchange, _ = pass_through(received, request(), body(4, b"{}", is_last=True))
    exchange.end(is_cut=False)
    [capture] = await received.captures()
    assert (capture.response.status, capture.response.complete) == (499, False)
    assert capture.request.body == "{}"


@pytest.mark.parametrize("is_cut", [True, False])
async def test_a_response_that_broke_off_is_incomplete(received: Received, is_cut: bool) -> None:
    exchange, _ = pass_through(received, request(is_last=True), OK, body(5, b'{"a":'))
    exchange.end(is_cut=is_cut)
    [capture] = await received.captures()
    assert (capture.response.status, capture.response.complete) == (200, False)


async def test_a_change_of_protocol_is_complete(received: Received) -> None:
    head_alone = head(3, {":status": "101"})
    exchange, _ = pass_through(received, request("GET"), head_alone, body(5, b"another protocol"))
    exchange.end(is_cut=False)
    [capture] = await received.captures()
    assert (capture.response.status, capture.response.complete) == (101, True)


async def test_a_request_whose_outcome_nobody_knows_is_a_gap(received: Received) -> None:
    """A tap that hung must not record that the client left."""
    exchange, _ = pass_through(received, request(), body(4, b"{}"))
    exchange.end(is_cut=True)
    assert await received.captures() == []
    assert received.drops() == {DropCause.LOST: 1}


async def test_what_envoy_numbered_and_did_not_send_is_a_gap(received: Received) -> None:
    for number in (1, 2, 6):
        pass_through(received, request(number=number, is_last=True), OK, trailers(7))
    assert len(await received.captures()) == 3
    assert received.drops() == {DropCause.LOST: 3}


async def test_a_response_without_its_request_is_a_gap(received: Received) -> None:
    """As if a filter before the tap's had responded."""
    response = OK[:-2] + metadata(EPOCH, 1)
    assert pass_through(received, response)[1] == [True]
    assert await received.captures() == []
    assert received.drops() == {DropCause.REFUSED: 1}


async def test_what_envoy_answers_before_its_filters_is_no_gap(received: Received) -> None:
    """Or anyone could make gaps, with requests that Envoy cannot read."""
    assert pass_through(received, OK[:-2])[1] == [True]
    pass_through(received, request(is_last=True), OK, trailers(7))
    [capture] = await received.captures()
    assert capture.tap is not None
    assert capture.tap.seq == 1
    assert received.drops() == {}


@pytest.mark.parametrize("status", ["", "abc"])
async def test_what_fails_is_counted_and_gives_its_bytes_back(received: Received, status: str) -> None:
    ends = pass_through(received, request(), body(4, b"{}"), head(3, {":status": status}))[1]
    assert ends[-1]
    assert received.tap.run.buffer.reserve(QUEUE_BYTES_MAX)
    received.tap.run.buffer.release(QUEUE_BYTES_MAX)
    assert received.tap.run.buffer.stats().failed == 1
    assert await received.captures() == []
    assert received.drops() == {DropCause.FAILED: 1}


async def test_what_does_not_fit_into_the_buffer_is_a_gap(received: Received) -> None:
    assert received.tap.run.buffer.reserve(QUEUE_BYTES_MAX)
    pass_through(received, request(is_last=True), OK, trailers(7))
    received.tap.run.buffer.release(QUEUE_BYTES_MAX)
    assert await received.captures() == []
    assert received.drops() == {DropCause.BUFFER_FULL: 1}


@pytest.mark.parametrize(("by_s", "is_taken"), [(-20, True), (60, False), (-86_400, False)])
async def test_the_time_is_envoys_if_it_can_be(received: Received, by_s: int, is_taken: bool) -> None:
    now = datetime.now(UTC)
    at = now + timedelta(seconds=by_s)
    pass_through(received, request(is_last=True, request_time=at.isoformat()), OK, trailers(7))
    [capture] = await received.captures()
    captured_ms = parse_rfc3339_ms(capture.captured_at or "")
    assert captured_ms is not None
    assert (captured_ms == parse_rfc3339_ms(at.isoformat())) == is_taken
    assert is_taken or captured_ms >= int(now.timestamp() * 1000)


@pytest.mark.parametrize(
    ("address", "ip"), [("[2001:db8::1]:80", "2001:db8::1"), ("", None), ("x" * 500 + ":1", "x" * 64)]
)
async def test_addresses_lose_their_port(received: Received, address: str, ip: str | None) -> None:
    pass_through(received, request(is_last=True, source_address=address), OK, trailers(7))
    [capture] = await received.captures()
    assert capture.client_ip == ip


async def test_pairs_show_nothing_of_the_traffic(received: Received) -> None:
    exchange, _ = pass_through(received, request())
    assert "s3cret" not in repr(exchange) + repr(vars(exchange))
    assert repr(Part(False, [(b"a", b"s3cret")])) == "<part>"
