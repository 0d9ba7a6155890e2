"""Rule 14: whose address is recorded where proxies stand before the tap."""

from __future__ import annotations

from typing import Any

import pytest

from redactor.config import HeaderNames, RedactionConfig
from redactor.decode.client_address import HOPS_MAX
from schemas.capture import Headers
from schemas.errors import StartupError
from schemas.event import AuditEvent
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.pairs import a_pair, a_redactor, event_of
from tests.unit.redactor.schemas import TEXT

PROXIES = ("10.0.0.0/8", "192.0.2.7", "2001:db8:ffff::/48")
CLIENT = "203.0.113.9"


def recorded(
    peer: str | None, request: Headers, header: str = "x-forwarded-for", **operation: Any
) -> AuditEvent:
    redactor = a_redactor(
        a_document({"/things": {"get": an_operation(**operation)}}),
        headers=HeaderNames(client_address=header),
        trusted_proxies=PROXIES,
    )
    pair = a_pair(method="GET", request_headers=request, client_ip=peer)
    event = event_of(redactor, pair)
    # What the stage remembers of the first pair must change nothing of the second.
    assert event_of(redactor, pair) == event
    return event


@pytest.mark.parametrize(
    ("peer", "chain", "address"),
    [
        ("10.0.0.1", "203.0.113.9", CLIENT),
        ("10.0.0.1", "203.0.113.9, 10.1.2.3", CLIENT),
        ("10.0.0.1", ["203.0.113.9, 10.1.2.3", "10.0.0.2"], CLIENT),
        ("10.0.0.1", ["203.0.113.9", "10.1.2.3", "192.0.2.7"], CLIENT),
        # What the client itself wrote stands to the left of its own address.
        ("10.0.0.1", "198.51.100.1, 203.0.113.9", CLIENT),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.9"], CLIENT),
        ("10.0.0.1", "10.9.9.9, 203.0.113.9, 10.1.2.3", CLIENT),
        ("10.0.0.1", "nonsense, 203.0.113.9", CLIENT),
        ("10.0.0.1", "\x00, ,,203.0.113.9 , ,", CLIENT),
        # A peer that is no proxy of ours may write what it likes.
        ("203.0.113.9", "198.51.100.1", CLIENT),
        ("203.0.113.9", "198.51.100.1, 10.0.0.1", CLIENT),
        ("203.0.113.9", "nonsense", CLIENT),
        # Forms of an address.
        ("10.0.0.1:4711", "203.0.113.9:51234", CLIENT),
        ("::ffff:10.0.0.1", "::ffff:203.0.113.9", CLIENT),
        ("10.0.0.1", "[::FFFF:203.0.113.9]:443", CLIENT),
        ("10.0.0.1", "[2001:DB8::1]:443", "2001:db8::1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("2001:db8:ffff::1", "203.0.113.9, 2001:db8:ffff::2", CLIENT),
        # Requests of the proxies themselves.
        ("10.0.0.1", "10.0.0.9, 10.0.0.2", "10.0.0.9"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ", ".join([CLIENT, *["10.0.0.2"] * (HOPS_MAX - 1)]), CLIENT),
    ],
)
def test_the_first_address_from_the_right_that_is_no_trusted_proxy_is_recorded(
    peer: str, chain: str | list[str], address: str
) -> None:
    event = recorded(peer, {"X-Forwarded-For": chain})
    assert event.actor.ip_address == address
    assert event.receipt.refused == ()


@pytest.mark.parametrize(
    "chain",
    [
        "unknown",
        "203.0.113.9, unknown",
        "203.0.113.9, 10.0.0.2, -",
        "fe80::1%eth0",
        "203.0.113.9 10.0.0.2",
        "203.0.113.9, unix:",
        "203.0.113.256",
        "203.0.113.9, \ud800",
        ", ".join([CLIENT, *["10.0.0.2"] * HOPS_MAX]),
        CLIENT + "," * 60_000,
        [CLIENT] + [""] * HOPS_MAX,
    ],
)
def test_of_a_chain_that_cannot_be_read_no_address_is_recorded(chain: str | list[str]) -> None:
    event = recorded("10.0.0.1", {"x-forwarded-for": chain})
    assert event.actor.ip_address is None
    assert event.receipt.refused == ("actor.ip_address",)


@pytest.mark.parametrize(
    ("chain", "address"),
    [
        ("for=203.0.113.9", CLIENT),
        ('For="203.0.113.9:4711";proto=https;by=10.0.0.1', CLIENT),
        ("for=203.0.113.9:4711", CLIENT),
        ('for="[2001:db8::1]:4711"', "2001:db8::1"),
        ('for=198.51.100.1, for=203.0.113.9;host="a,b;for=9.9.9.9", for=10.0.0.2', CLIENT),
        (["for=198.51.100.1", "proto=http; for=203.0.113.9", "for=10.0.0.2"], CLIENT),
        # A quote that the client leaves open hides nothing that its proxy appended.
        ('for=198.51.100.1;host=", for=203.0.113.9', CLIENT),
        ('for="198.51.100.1, for="203.0.113.9:1"', CLIENT),
        ('for=198.51.100.1;host="\\, for=203.0.113.9;host="x"', CLIENT),
        ("for=unknown, for=203.0.113.9", CLIENT),
        ("for=unknown", None),
        ("for=_hidden, for=10.0.0.2", None),
        ("proto=https", None),
        ("for=203.0.113.9;for=198.51.100.1", None),
        ("for 203.0.113.9", None),
        ('for="203.0.113.9', None),
        ("for=203.0.113.9;host=" + "x" * 2_000, None),
        ("203.0.113.9", None),
    ],
)
def test_forwarded_is_read_by_its_own_rules(chain: str | list[str], address: str | None) -> None:
    event = recorded("10.0.0.1", {"Forwarded": chain}, "forwarded")
    assert event.actor.ip_address == address
    assert event.receipt.refused == (() if address else ("actor.ip_address",))


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("203.0.113.9", CLIENT),
        (" 203.0.113.9\t", CLIENT),
        (["203.0.113.9"], CLIENT),
        ("10.0.0.5", "10.0.0.5"),
        ("198.51.100.1, 203.0.113.9", None),
        (["203.0.113.9", "203.0.113.9"], None),
        ("", None),
    ],
)
def test_any_other_header_holds_one_address(value: str | list[str], address: str | None) -> None:
    event = recorded("10.0.0.1", {"CF-Connecting-IP": value}, "cf-connecting-ip")
    assert event.actor.ip_address == address


def test_only_the_configured_header_counts() -> None:
    headers: Headers = {"forwarded": "for=198.51.100.1", "x-real-ip": "198.51.100.1", "true-client-ip": "::1"}
    assert recorded("10.0.0.1", headers).actor.ip_address == "10.0.0.1"
    assert recorded("10.0.0.1", {**headers, "x-forwarded-for": CLIENT}).actor.ip_address == CLIENT


def test_two_spellings_of_the_header_are_one_chain() -> None:
    headers: Headers = {"X-Forwarded-For": ["198.51.100.1", CLIENT], "x-forwarded-for": "10.0.0.2"}
    assert recorded("10.0.0.1", headers).actor.ip_address == CLIENT


def test_what_a_proxy_sends_for_itself_does_not_stand_for_what_it_passes_on() -> None:
    redactor = a_redactor(
        a_document({"/things": {"get": an_operation()}}),
        headers=HeaderNames(client_address="x-forwarded-for"),
        trusted_proxies=PROXIES,
    )
    sent: list[Headers] = [{}, {"x-forwarded-for": CLIENT}, {"x-forwarded-for": "198.51.100.1"}, {}]
    pairs = [a_pair(method="GET", request_headers=each, client_ip="10.0.0.1") for each in sent]
    addresses = [event_of(redactor, pair).actor.ip_address for pair in pairs]
    assert addresses == ["10.0.0.1", CLIENT, "198.51.100.1", "10.0.0.1"]


def test_a_capture_without_a_peer_has_no_address_whatever_its_headers_claim() -> None:
    assert recorded(None, {"x-forwarded-for": CLIENT}).actor.ip_address is None


def test_a_document_that_denies_the_header_has_it_read_as_if_it_were_not_there() -> None:
    parameter = {"name": "X-Forwarded-For", "in": "header", "schema": TEXT, "x-sensitive": True}
    event = recorded("10.0.0.1", {"x-forwarded-for": CLIENT}, parameters=[parameter])
    assert event.actor.ip_address == "10.0.0.1"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"trusted_proxies": ("10.0.0.1/8",)}, "no bit set behind the prefix"),
        ({"trusted_proxies": ("proxy.internal",)}, "write addresses or networks"),
        ({"trusted_proxies": ("10.0.0.0/8",)}, "of use together"),
        ({"headers": HeaderNames(client_address="x-forwarded-for")}, "of use together"),
    ],
)
def test_settings_that_could_not_work_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StartupError, match=sentence):
        RedactionConfig(**settings)
