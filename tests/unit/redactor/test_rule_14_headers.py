from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from redactor.config import HeaderNames
from schemas.capture import Headers
from schemas.event import Actor, AuditEvent, encode_event
from tests.invisible_texts import INVISIBLE
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.pairs import a_pair, a_redactor, event_of

HEADERS: dict[str, str] = {
    "x-actor-id": "u-1",
    "x-actor-email": "who@example.com",
    "x-actor-type": "user",
    "x-actor-context": "dash",
    "x-actor-token-id": "t-1",
    "x-actor-token-name": "a token's name",
}
IDENTIFIERS = ("x-actor-id", "x-actor-email", "x-actor-token-id", "x-actor-token-name", "x-account-id")
FIELDS = {name: name.removeprefix("x-").replace("-", ".", 1).replace("-", "_") for name in HEADERS} | {
    "x-account-id": "account.id"
}


def of_field(event: AuditEvent, field: str) -> Any:
    part, _, name = field.partition(".")
    return getattr(getattr(event, part), name)


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
    repeats: list[Headers] = [{name: [value, value]}, {name: value, name.upper(): value}]
    for headers in repeats:
        event = recorded(response=headers)
        assert event.receipt.refused == (FIELDS[name],)
        assert without_refusals(event) == bare
    assert recorded(response={name: []}) == bare


def without_refusals(event: AuditEvent) -> AuditEvent:
    receipt = msgspec.structs.replace(event.receipt, refused=())
    return msgspec.structs.replace(event, receipt=receipt)


FOREIGN = [
    "auth0|5f7c8ec7c33c6c004bbafe82",
    "arn:aws:iam::123456789012:user/alice",
    "spiffe://td/ns/a",
    "CORP\\alice",
    "alice@example.com",
    "alice smith",
    "cn=alice,ou=people",
    "did:web:x#k",
    "system:serviceaccount:ns:sa",
    "müller@example.com",
    "田中\u3000太郎",
    "<a@b.c>",
    "a\"b'c",
    "../s",
    "x" * 256,
]


@pytest.mark.parametrize("value", FOREIGN)
@pytest.mark.parametrize("name", IDENTIFIERS)
def test_any_printable_text_is_an_identifier(name: str, value: str) -> None:
    event = recorded(response={name: f" \u3000{value}\xa0\t"})
    assert of_field(event, FIELDS[name]) == value
    assert event.receipt.refused == ()


@pytest.mark.parametrize("value", FOREIGN)
def test_an_account_in_the_path_is_an_identifier_as_well(value: str) -> None:
    redactor = a_redactor(a_document({"/accounts/{account_id}/things": {"post": an_operation()}}))
    event = event_of(redactor, a_pair(url=f"/accounts/{quote(value, safe='')}/things"))
    assert event.account.id == value


def test_a_dash_is_no_account() -> None:
    # Where the log API records its own reads, such a path is of all accounts.
    document = a_document(
        {
            "/accounts/{account_id}/things": {"post": an_operation()},
            "/zones/{zone_id}/things": {"post": an_operation()},
        }
    )
    for path in ("/accounts/-/things", "/zones/-/things"):
        event = event_of(a_redactor(document), a_pair(url=path))
        assert (event.raw.uri, event.account.id, event.zone.id) == (path, None, None)
    assert recorded(response={"x-account-id": "-"}).account.id is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in IDENTIFIERS
            for value in ("a\nb", "a\x00b", "a\u2028b", "\na", "a\x85b", "\u3000", "\xa0 \u2003", *INVISIBLE)
        ),
        ("x-actor-id", "x" * 1_025),
        ("x-actor-token-name", "x" * 1_025),
        ("x-account-id", "x" * 257),
        ("x-account-id", ".."),
        ("x-actor-type", "admin"),
        ("x-actor-context", "DASH"),
    ],
)
def test_what_is_refused_leaves_its_fields_name(name: str, value: str) -> None:
    event = recorded(response={name: value})
    assert event.receipt.refused == (FIELDS[name],)
    assert without_refusals(event) == recorded()
    assert value not in encode_event(event).decode()


@pytest.mark.parametrize("name", list(HEADERS))
def test_an_empty_header_says_nothing(name: str) -> None:
    assert recorded(response={name: " "}) == recorded()


def test_an_altered_request_and_an_unmatched_one_name_what_was_refused_too() -> None:
    redactor = a_redactor(a_document({"/things": {"post": an_operation()}}))
    for url in ("//things", "/nothing"):
        event = event_of(
            redactor, a_pair(url=url, response_headers={"x-actor-id": "a\nb"}, client_ip="unix:")
        )
        assert event.receipt.refused == ("actor.id", "actor.ip_address")


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
        ("203.0.113.9:80", "203.0.113.9"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("[::1]", "::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("[::FFFF:10.0.0.1]:1234", "10.0.0.1"),
        ("203.0.113.9:", None),
        ("203.0.113.9:x", None),
        ("[fe80::1%s3cret]:80", None),
        ("", None),
        (None, None),
    ],
)
def test_client_address(text: str | None, expected: str | None) -> None:
    event = event_of(a_redactor(), a_pair(client_ip=text))
    assert event.actor.ip_address == expected
    assert event.receipt.refused == (("actor.ip_address",) if text and expected is None else ())


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
