"""What a configured exchange adds to an event: exactly its facts, and whatever a pair says, only what they can be."""

from __future__ import annotations

import base64
import ipaddress
import re

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redactor.config import RedactionConfig
from redactor.pipeline.exchanges import FastExchanges, ReferenceExchanges
from schemas.capture import Capture, CapturedRequest, CapturedResponse
from schemas.event import DURATION_MS_MAX, RESPONSE_BYTES_MAX, Exchange, decode_event
from tests.property.captures import EVENT_ID, a_redactor
from tests.property.test_non_interference import Example, examples

KEEPING = RedactionConfig(exchange_facts_kept=True)
NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
AUTHORITIES = (
    st.text(max_size=80)
    | st.from_regex(r"([A-Za-z0-9_-]{1,70}\.?){1,6}(:[0-9]{0,6})?", fullmatch=True)
    | st.ip_addresses().map(str)
    | st.ip_addresses(v=6).map(lambda address: f"[{address}]:80")
    | st.tuples(st.text(max_size=9), st.sampled_from(["a.example", "1.2.3.4"])).map("@".join)
)


@pytest.mark.timeout(3600)  # ten thousand examples, or a failing one that is made small
@settings(suppress_health_check=list(HealthCheck))
@given(examples())
def test_an_event_with_the_facts_is_the_same_but_for_them(example: Example) -> None:
    plain, keeping = a_redactor(example.document), a_redactor(example.document, KEEPING)
    for pair in (example.pair, example.mutant):
        event, value = plain.redact(pair, EVENT_ID), keeping.redact(pair, EVENT_ID)
        assert event is not None
        assert value is not None
        facts = decode_event(value).exchange
        assert facts is not None
        assert value == b'%b,"exchange":%b}' % (event[:-1], msgspec.json.encode(facts))


@given(AUTHORITIES, st.booleans())
def test_a_recorded_host_is_a_name_or_an_address(authority: str, in_url: bool) -> None:
    request = CapturedRequest("GET", f"https://{authority}/x" if in_url else "/x", {"host": authority})
    pair = Capture(request, CapturedResponse(200))
    fast = FastExchanges()
    host = ReferenceExchanges().record(pair).host
    assert fast.record(pair).host == fast.record(pair).host == host
    if host is None:
        return
    assert len(host) <= 253
    if host.startswith("["):
        assert f"[{ipaddress.IPv6Address(host[1:-1])}]" == host
    elif host.rpartition(".")[2].isdigit():
        assert str(ipaddress.IPv4Address(host)) == host
    else:
        assert NAME.fullmatch(host)
        assert all(1 <= len(label) <= 63 for label in host.split("."))


@given(st.ip_addresses())
def test_every_address_is_a_host(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    written = f"[{address}]" if address.version == 6 else str(address)
    pair = Capture(CapturedRequest("GET", f"https://{written}:1/x"), CapturedResponse(200))
    assert ReferenceExchanges().record(pair).host == written


@given(st.binary(max_size=200) | st.text(max_size=200), st.booleans())
def test_a_captured_body_is_counted_as_it_was_sent(body: bytes | str, complete: bool) -> None:
    if isinstance(body, bytes):
        response = CapturedResponse(200, body_base64=base64.b64encode(body).decode(), complete=complete)
    else:
        response = CapturedResponse(200, body=body, complete=complete)
        body = body.encode()
    pair = Capture(CapturedRequest("POST", "/x"), response)
    assert ReferenceExchanges().record(pair).response_bytes == (len(body) if complete else None)


@given(st.text(max_size=20) | st.integers().map(str), st.floats() | st.integers())
def test_numbers_are_within_their_bounds(length: str, duration_ms: float) -> None:
    response = CapturedResponse(200, {"content-length": length})
    pair = Capture(CapturedRequest("GET", "/x"), response, duration_ms=duration_ms)
    found = FastExchanges().record(pair)
    assert found == ReferenceExchanges().record(pair)
    if found.response_bytes is not None:
        assert 0 <= found.response_bytes <= RESPONSE_BYTES_MAX
        assert int(length) == found.response_bytes
    if found.duration_ms is not None:
        assert 0 <= found.duration_ms <= DURATION_MS_MAX
        assert abs(found.duration_ms - duration_ms) <= 0.5
    assert found == Exchange(None, found.duration_ms, found.response_bytes)
