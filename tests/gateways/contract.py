"""What every gateway's tap has to do. A gateway's test is a subclass that names the gateway."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from redactor.config import DocumentConfig, RedactionConfig
from redactor.pipeline.exchanges import ReferenceExchanges
from redactor.pipeline.redactor import Redactor
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers, body_bytes
from schemas.identity import parse_rfc3339_ms
from tests.gateways.collected import Collected
from tests.gateways.exchanges import AGENT, EXCHANGES, WIDGET, Exchange, Expected, Through
from tests.gateways.gateway import Abilities, Gateway, Running
from tests.gateways.upstream import ACTOR, Upstream

_DOCUMENT = Path(__file__).with_name("openapi.yaml")
_EVENT_ID = "018f" + "0" * 8 + "7" + "0" * 19
_CLOCKS_APART_MS_MAX = 1_000
_MANY = 2_000
_CLIENTS = 20
_UPGRADES = (("h2c",), ("other",), ("websocket, h2c",), ("websocket", "h2c"), ("websocket",))


@dataclass(frozen=True)
class Bench:
    """A gateway that runs between clients and the upstream, and the collector that its tap sends to."""

    gateway: Gateway
    running: Running
    upstream: Upstream
    collected: Collected

    def through(self, marker: str) -> Through:
        return Through(self.running, self.upstream, marker)


class GatewayContract:
    """The contract of a gateway's tap: every pair arrives once, as it passed."""

    gateway: Gateway

    @pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
    async def test_the_pair_arrives_as_it_passed(self, bench: Bench, exchange: Exchange) -> None:
        abilities = bench.gateway.abilities
        if exchange.needs_early_hints and not abilities.passes_early_hints:
            return
        marker = f"{exchange.name.lower().replace(' ', '-')}"
        began_s = time.time()
        await exchange.send(bench.through(marker))
        capture = await bench.collected.one_of(marker)
        if exchange.client_leaves and not abilities.sees_client_leave:
            assert capture.request.method == exchange.expected.method
            return
        expected = exchange.expected
        if exchange.is_chunked and not abilities.copies_chunked_uploads:
            # As one that is too long.
            expected = dataclasses.replace(expected, request_body=bytes(abilities.body_bytes_max + 1))
        assert_as_it_passed(capture, expected, abilities)
        assert_timed(capture, began_s, time.time())
        redacted, untouched = events_of(capture, expected, abilities)
        assert redacted == untouched

    async def test_host_and_size_are_known_of_a_body_that_is_not_copied(self, bench: Bench) -> None:
        for method in ("GET", "HEAD"):
            marker = f"size-of-{method.lower()}"
            async with bench.through(marker).client() as client:
                response = await client.request(method, "/widgets?page=2")
            exchange = ReferenceExchanges().record(await bench.collected.one_of(marker))
            assert (exchange.host, exchange.response_bytes) == ("127.0.0.1", len(response.content))

    async def test_two_thousand_mixed_requests_all_arrive_once(self, bench: Bench) -> None:
        markers = [f"mixed-{number}" for number in range(_MANY)]
        numbered = iter(enumerate(markers))
        limits = httpx.Limits(max_connections=_CLIENTS)
        url = f"http://127.0.0.1:{bench.running.port}"

        async def send(client: httpx.AsyncClient) -> None:
            for number, marker in numbered:
                headers = {"x-request-id": marker, "content-type": "application/json"}
                method, target, body = _MIXED[number % len(_MIXED)]
                response = await client.request(method, target, content=body, headers=headers)
                assert response.status_code < 300

        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False) as client:
            await asyncio.gather(*(send(client) for _ in range(_CLIENTS)))

        def arrived() -> Counter[str]:
            captures = (each.capture for each in bench.collected.sink.accepted)
            return Counter(str(each.request.headers.get("x-request-id")) for each in captures)

        await bench.collected.until(lambda: set(markers) <= arrived().keys(), "some of 2,000")
        assert {marker: arrived()[marker] for marker in markers} == dict.fromkeys(markers, 1)

    async def test_sequence_numbers_have_no_hole(self, bench: Bench) -> None:
        await EXCHANGES[0].send(bench.through("numbered"))
        await bench.collected.one_of("numbered")

        def holes() -> list[tuple[str, int, int]]:
            seen: dict[tuple[str, int], set[int]] = {}
            for each in bench.collected.sink.accepted:
                tap = each.capture.tap
                assert tap is not None
                assert tap.epoch is not None
                assert tap.seq is not None
                seen.setdefault((tap.id, tap.epoch), set()).add(tap.seq)
            return [
                (*epoch, number)
                for epoch, numbers in seen.items()
                for number in range(1, max(numbers))
                if number not in numbers
            ]

        # Requests that were pending may still arrive.
        await bench.collected.until(lambda: not holes(), f"the numbers {holes()[:10]}")

    async def test_heartbeats_account_for_every_number(self, bench: Bench) -> None:
        await EXCHANGES[0].send(bench.through("heartbeats"))
        capture = await bench.collected.one_of("heartbeats")
        tap = capture.tap
        assert tap is not None

        def acknowledged() -> bool:
            return any(
                (beat.tap.id, beat.tap.epoch) == (tap.id, tap.epoch) and beat.pending_from > (tap.seq or 0)
                for beat in bench.collected.sink.heartbeats
            )

        await bench.collected.until(acknowledged, "the heartbeat that covers the capture")

    @pytest.mark.parametrize("protocols", _UPGRADES, ids=" and ".join)
    async def test_nothing_passes_in_a_tunnel_but_websocket(
        self, bench: Bench, protocols: Sequence[str]
    ) -> None:
        """Inside of another protocol, requests would pass that nobody sees."""
        abilities = bench.gateway.abilities
        if abilities.sees_inside_of_upgrades:
            return
        headers = [
            *(("upgrade", protocol) for protocol in protocols),
            ("connection", "Upgrade, HTTP2-Settings"),
            ("http2-settings", "AAMAAABk"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ]
        async with bench.through("tunnel").client() as client:
            answer = await client.get("/asked-upgrade", headers=headers)
        if protocols != ("websocket",):
            # Some gateways refuse it, and some pass the first of two headers on.
            is_refused = answer.status_code in (400, 403)
            assert is_refused or answer.json()["upgrade"] in ("", "websocket")
        elif answer.content:
            # Envoy passes no body on where the service does not switch.
            assert answer.json()["upgrade"] == ("websocket" if abilities.passes_websocket else "")


_MIXED: tuple[tuple[str, str, bytes | None], ...] = (
    ("POST", "/widgets", WIDGET),
    ("GET", "/widgets?page=2", None),
    ("PUT", "/widgets", WIDGET * 20),
    ("DELETE", "/widgets", None),
    ("POST", "/compressed", WIDGET),
)


def assert_as_it_passed(capture: Capture, expected: Expected, abilities: Abilities) -> None:
    request, response = capture.request, capture.response
    assert request.method == expected.method
    assert request.url.startswith("http")
    assert request.url.partition("://")[2].partition("/")[2] == expected.target.removeprefix("/")
    assert response.status in (expected.status, *expected.other_statuses)
    assert response.complete == expected.complete
    for headers, wanted in (
        (request.headers, expected.request_headers),
        (response.headers, expected.response_headers),
    ):
        assert {name: headers.get(name) for name in wanted} == wanted
    assert_body(request, expected.request_body, abilities)
    if expected.complete:
        assert_body(response, expected.response_body, abilities)
    assert capture.client_ip == "127.0.0.1"


def assert_body(
    message: CapturedRequest | CapturedResponse, expected: bytes | None, abilities: Abilities
) -> None:
    if expected is not None and len(expected) > abilities.body_bytes_max:
        assert message.truncated
    else:
        assert not message.truncated
        assert (body_bytes(message) or None) == expected


def assert_timed(capture: Capture, began_s: float, ended_s: float) -> None:
    assert capture.duration_ms is not None
    assert 0 <= capture.duration_ms <= (ended_s - began_s) * 1000 + _CLOCKS_APART_MS_MAX
    assert capture.captured_at is not None
    at_ms = parse_rfc3339_ms(capture.captured_at)
    assert at_ms is not None
    assert began_s * 1000 - _CLOCKS_APART_MS_MAX <= at_ms <= ended_s * 1000 + _CLOCKS_APART_MS_MAX


_redactor = Redactor.from_config(RedactionConfig(documents=(DocumentConfig(_DOCUMENT),)))


def events_of(capture: Capture, expected: Expected, abilities: Abilities) -> tuple[object, object]:
    """Return the event of the capture, and that of the same pair as no gateway has touched it."""
    marker = str(capture.request.headers["x-request-id"])
    sent: Headers = {"user-agent": capture.request.headers.get("user-agent", AGENT), "x-request-id": marker}
    received: Headers = {"x-actor-email": ACTOR} if "x-actor-email" in capture.response.headers else {}
    request = CapturedRequest(
        expected.method,
        capture.request.url,
        {**sent, **expected.request_headers},
        **_body_fields(expected.request_body, abilities),
    )
    response = CapturedResponse(
        capture.response.status,
        {**received, **expected.response_headers},
        **_body_fields(expected.response_body, abilities, complete=expected.complete),
        complete=expected.complete,
    )
    untouched = msgspec.structs.replace(capture, request=request, response=response)
    return _event(capture), _event(untouched)


def _event(capture: Capture) -> object:
    event = _redactor.redact(capture, _EVENT_ID)
    assert event is not None
    return msgspec.json.decode(event)


def _body_fields(body: bytes | None, abilities: Abilities, *, complete: bool = True) -> dict[str, Any]:
    if body is None:
        return {}
    if len(body) > abilities.body_bytes_max or not complete:
        return {"truncated": True}
    return {"body_base64": base64.b64encode(body).decode()}
