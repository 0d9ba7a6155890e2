from __future__ import annotations

import pytest

from redactor.config import HeaderNames
from schemas.capture import Headers
from schemas.event import Actor, AuditEvent
from tests.unit.redactor.pairs import a_document, a_pair, a_redactor, an_operation, event_of

HEADERS: dict[str, str] = {
    "x-actor-id": "u-1",
    "x-actor-email": "who@example.com",
    "x-actor-type": "user",
    "x-actor-context": "dash",
    "x-actor-token-id": "t-1",
    "x-actor-token-name": "a token's name",
}


def recorded(request: Headers | None = None, response: Headers | None = None) -> AuditEvent:
    redactor = a_redactor(a_document({"/things": {"get": an_operation()}}))
    pair = a_pair(method="GET", request_headers=request, response_headers=response, client_ip="203.0.113.9")
    return event_of(redactor, pair)


def test_configured_headers_of_the_response_say_who_acted() -> None:
    expected = Actor(
        id="u-1",
        context="dash",
        email="who@example.com",
        ip_address="203.0.113.9",
        token_id="t-1",
        token_name="a token's name",
        type="user",
    )
    assert recorded(response=dict(HEADERS)).actor == expected
    assert recorded(response={name.title(): [value] for name, value in HEADERS.items()}).actor == expected


def test_nothing_else_is_read_least_of_all_the_clients_word_on_who_it_is() -> None:
    secrets: Headers = {"authorization": "s", "cookie": "s", "x-other": ["s"], "x-account-id": "s", **HEADERS}
    assert recorded(request=secrets) == recorded()
    assert recorded(response={"set-cookie": ["s"], "user-agent": "s", "location": "/s"}) == recorded()


@pytest.mark.parametrize("name", list(HEADERS))
def test_a_header_counts_only_if_it_stands_exactly_once(name: str) -> None:
    value = HEADERS[name]
    bare = recorded()
    repeats: list[Headers] = [{name: [value, value]}, {name: value, name.upper(): value}, {name: []}]
    for headers in repeats:
        assert recorded(response=headers) == bare


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-actor-id", "a b"),
        ("x-actor-id", "x" * 129),
        ("x-actor-id", ""),
        ("x-actor-id", "ü"),
        ("x-actor-id", "a\nb"),
        ("x-actor-email", "no address"),
        ("x-actor-email", "a@b@c"),
        ("x-actor-email", "a@" + "b" * 300),
        ("x-actor-email", "<a@b.c>"),
        ("x-actor-type", "admin"),
        ("x-actor-context", "DASH"),
        ("x-actor-token-id", "a,b"),
        ("x-actor-token-name", "x" * 257),
        ("x-actor-token-name", "a\x00b"),
        ("x-account-id", "../s"),
    ],
)
def test_what_does_not_look_as_it_should_is_not_kept(name: str, value: str) -> None:
    assert recorded(response={name: value}) == recorded()


def test_request_id_and_user_agent() -> None:
    event = recorded(request={"CF-Ray": "8a-FRA", "x-request-id": "r.1", "User-Agent": "curl/8 (x)"})
    assert (event.raw.cf_ray_id, event.raw.user_agent) == ("8a-FRA", "curl/8 (x)")
    assert recorded(request={"cf-ray": "s s", "x-request-id": "r:1"}).raw.cf_ray_id == "r:1"
    assert recorded(request={"cf-ray": "x" * 129}).raw.cf_ray_id is None
    assert recorded(response={"cf-ray": "8a"}).raw.cf_ray_id == "8a"
    assert recorded(request={"user-agent": "x" * 1025}).raw.user_agent is None
    assert recorded(request={"user-agent": "a\r\nb"}).raw.user_agent is None


def test_the_kelvin_sign_is_no_k() -> None:
    assert recorded(response={"x-actor-to\u212aen-id": "s"}) == recorded()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%s3cret", None),
        ("s3cret", None),
        ("203.0.113.9, 10.0.0.1", None),
        ("203.0.113.9:80", None),
        ("", None),
        (None, None),
    ],
)
def test_client_address(text: str | None, expected: str | None) -> None:
    event = event_of(a_redactor(), a_pair(client_ip=text))
    assert event.actor.ip_address == expected


def test_names_are_configurable() -> None:
    names = HeaderNames(actor_id="x-who", user_agent="", request_ids=())
    redactor = a_redactor(a_document({"/things": {"get": an_operation()}}), headers=names)
    pair = a_pair(
        method="GET",
        request_headers={"user-agent": "s", "cf-ray": "s", "": "s"},
        response_headers={"x-who": "me", "x-actor-id": "s", "": "s"},
    )
    event = event_of(redactor, pair)
    assert (event.actor.id, event.raw.user_agent, event.raw.cf_ray_id) == ("me", None, None)
