"""Explain says of each configured header what the redactor does with it, and where account and actor come from."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from msgspec import to_builtins

from redactor.config import HeaderNames, RedactionConfig
from redactor.report.decisions import Outcome
from redactor.report.explain import Explanation, explain_capture, explain_operation
from redactor.report.explain_headers import configured_headers
from redactor.report.operation_fields import DocumentFields
from schemas.capture import Capture, Headers
from schemas.event import (
    AuditEvent,
    Identity,
    IdentityKind,
    IdentitySource,
    TokenReason,
    decode_event,
    encode_event,
)
from schemas.identity import new_id
from tests.agreeing import AgreeingRedactor as Redactor
from tests.signed_tokens import AT_MS, ISSUER, ISSUERS, OTHER_ISSUER, a_verifier, token
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import EVENT_ID, a_pair, fail
from tests.unit.redactor.schemas import TEXT, Node

CONFIG = RedactionConfig()
OF_REQUEST = {
    each.name: f"value-of-request-{each.name}" for each in configured_headers(CONFIG) if each.of_request
}
OF_RESPONSE = {
    each.name: f"value-of-response-{each.name}" for each in configured_headers(CONFIG) if not each.of_request
} | {"x-actor-type": "system", "x-actor-context": "oauth"}
LONG = "x" * 257


def explained(
    document: Node, pair: Capture, config: RedactionConfig = CONFIG
) -> tuple[Explanation, AuditEvent]:
    read = loaded(document)
    redactor = Redactor([read], config, on_failure=fail)
    event = decode_event(redactor.redact(pair, EVENT_ID) or b"")
    return explain_capture(DocumentFields(read, config), redactor, pair, EVENT_ID), event


def denying(of_request: tuple[str, ...], of_response: tuple[str, ...]) -> Node:
    parameters = [{"name": name, "in": "header", "schema": TEXT, "x-sensitive": True} for name in of_request]
    headers = {name.title(): {"schema": TEXT, "x-sensitive": True} for name in of_response}
    operation = an_operation(parameters=parameters, responses={"default": {"headers": headers}})
    return a_document({"/accounts/{account_id}/things": {"post": operation}, "/things": {"post": operation}})


@pytest.mark.parametrize(
    "url", ["/things", "/accounts/a1/things", "//things", "//accounts/a1/things", "/none"]
)
@pytest.mark.parametrize(
    ("of_request", "of_response"),
    [
        ((), ()),
        ((), ("x-request-id",)),
        (("x-request-id",), ()),
        (("cf-ray",), ("cf-ray",)),
        (("cf-ray", "x-request-id"), ()),
        (("user-agent",), ("x-actor-email", "x-account-id", "cf-ray")),
    ],
)
def test_each_header_is_explained_as_the_redactor_records_it(
    url: str, of_request: tuple[str, ...], of_response: tuple[str, ...]
) -> None:
    document = denying(of_request, of_response)
    sent: list[tuple[Headers, Headers]] = [
        (dict(OF_REQUEST), dict(OF_RESPONSE)),
        ({}, dict(OF_RESPONSE)),
        ({"cf-ray": "not one"}, {"x-request-id": OF_RESPONSE["x-request-id"]}),
    ]
    sent += [({name: value}, {}) for name, value in OF_REQUEST.items()]
    sent += [({}, {name: value}) for name, value in OF_RESPONSE.items()]
    for request, response in sent:
        explanation, event = explained(
            document, a_pair(url=url, request_headers=request, response_headers=response)
        )
        recorded = encode_event(event).decode()
        for part in explanation.headers[:-1]:
            side, _, name = part.label.partition(": ")
            value = (request if side == "request" else response).get(name)
            assert part.present is (value is not None)
            if value is not None:
                assert (part.decision.outcome is Outcome.KEPT) is (f'"{value}"' in recorded), part


@pytest.mark.parametrize(
    ("host", "length", "outcomes"),
    [
        ("a.example", "812", (Outcome.KEPT, Outcome.KEPT)),
        ("CANARY@a.example", "CANARY", (Outcome.DROPPED, Outcome.DROPPED)),
    ],
)
def test_headers_that_tell_facts_of_the_exchange_are_explained_where_these_are_recorded(
    host: str, length: str, outcomes: tuple[Outcome, Outcome]
) -> None:
    pair = a_pair(url="/things", request_headers={"Host": host}, response_headers={"content-length": length})
    keeping = RedactionConfig(exchange_facts_kept=True)
    labels = ("request: host", "response: content-length")

    def decisions(document: Node, config: RedactionConfig) -> dict[str, tuple[Outcome, int, bool | None]]:
        parts = explained(document, pair, config)[0].headers
        assert "CANARY" not in str(parts)
        return {
            each.label: (each.decision.outcome, each.decision.rule, each.present)
            for each in parts
            if each.label in labels
        }

    expected = {label: (outcome, 14, True) for label, outcome in zip(labels, outcomes, strict=True)}
    assert decisions(denying((), ()), keeping) == expected
    denied = denying(("host",), ("content-length",))
    assert decisions(denied, keeping) == dict.fromkeys(labels, (Outcome.DROPPED, 5, True))
    assert decisions(denying((), ()), CONFIG) == {}


@pytest.mark.parametrize(
    ("of_request", "of_response"), [((), ("x-request-id",)), (("cf-ray",), ()), ((), ())]
)
def test_an_operation_names_the_headers_that_it_denies_one_by_one(
    of_request: tuple[str, ...], of_response: tuple[str, ...]
) -> None:
    document_fields = DocumentFields(loaded(denying(of_request, of_response)), RedactionConfig())
    explanation = explain_operation(document_fields, document_fields.operations[0])
    # `default` applies to most statuses.
    denied = {each.label for each in explanation.headers[:-1] if each.decision.reason != "configured"}
    assert denied == {f"request: {name}" for name in of_request} | {
        f"response: {name}" for name in of_response
    }


DOCUMENT = a_document(
    {
        "/things": {"post": an_operation()},
        "/accounts/{account_id}/things": {"post": an_operation()},
        "/zones/{zone_id}/things/{thing_id}": {"post": an_operation()},
    }
)
HEADER = "the response header x-account-id"


@pytest.mark.parametrize(
    ("url", "header", "source", "refused"),
    [
        ("/things", None, None, []),
        ("/things", "acme", HEADER, []),
        ("/things", LONG, None, ["account.id"]),
        ("/accounts/a1/things", None, "the path", []),
        ("/accounts/a1/things", "acme", "the path", []),
        ("/accounts/a1/things", LONG, "the path", ["account.id"]),
        (f"/accounts/{LONG}/things", "acme", HEADER, ["account.id"]),
        (f"/accounts/{LONG}/things", None, None, ["account.id"]),
        ("//accounts/a1/things", None, "the path", []),
        ("//accounts/a1/things", "acme", HEADER, []),
        ("//accounts/a1/things", LONG, "the path", ["account.id"]),
        ("/none", None, None, []),
        ("/none", "acme", HEADER, []),
        ("/zones/z1/things/1", None, "the zone in the path, which is looked up", []),
        (f"/zones/{LONG}/things/{'x' * 513}", None, None, ["zone.id", "resource.id"]),
    ],
)  # fmt: skip
def test_the_source_of_the_account_is_named(
    url: str, header: str | None, source: str | None, refused: list[str]
) -> None:
    headers: Headers = {} if header is None else {"x-account-id": header}
    explanation, event = explained(DOCUMENT, a_pair(url=url, response_headers=headers))
    account = explanation.fields[0]
    assert (account.name, account.source) == ("account.id", source)
    assert (
        [each.name for each in explanation.fields if each.refused] == refused == list(event.receipt.refused)
    )
    assert (event.account.id is not None) == (source in ("the path", HEADER))


def test_the_sources_of_the_actor_are_named() -> None:
    headers: Headers = {"x-actor-email": "a@example.com", "x-actor-id": "a\nb", "x-actor-type": "user"}
    explanation, _ = explained(DOCUMENT, a_pair(response_headers=headers, client_ip="203.0.113.9"))
    assert [(each.name, each.source, each.refused) for each in explanation.fields] == [
        ("account.id", None, False),
        ("actor.email", "the response header x-actor-email", False),
        ("actor.type", "the response header x-actor-type", False),
        ("actor.ip_address", "the tap", False),
        ("actor.id", None, True),
    ]


def test_a_refused_id_in_the_path_is_shown_as_refused() -> None:
    explanation, _ = explained(DOCUMENT, a_pair(url=f"/zones/{LONG}/things/1"))
    zone, thing = (each.decision for each in explanation.path)
    assert (zone.outcome, zone.reason) == (
        Outcome.KEPT,
        "named like an id; in the path alone, because it is no valid zone.id",
    )
    assert thing.reason == "named like an id"


BEHIND = RedactionConfig(
    issuers=ISSUERS, headers=HeaderNames(client_address="x-forwarded-for"), trusted_proxies=("10.0.0.0/8",)
)


def explained_identity(pair: Capture, document: Node = DOCUMENT) -> tuple[Explanation, dict[str, str | None]]:
    """The explanation of a pair behind proxies, with issuers, and where the actor's fields come from."""
    read = loaded(document)
    redactor = Redactor([read], BEHIND, fail, None, a_verifier())
    explanation = explain_capture(DocumentFields(read, BEHIND), redactor, pair, new_id(AT_MS))
    assert CANARY not in json.dumps(asdict(explanation), default=to_builtins)
    return explanation, {each.name: each.source for each in explanation.fields if each.name != "account.id"}


def reason_of(explanation: Explanation, label: str) -> str:
    [part] = [each for each in explanation.headers if each.label == label and each.present]
    return part.decision.reason


CANARY = "CANARY7f3a"


@pytest.mark.parametrize("url", ["/things", "//things", "/none"])
def test_the_actors_fields_come_from_claims_or_headers_and_never_from_both(url: str) -> None:
    by_token = token(
        sub=CANARY, email=CANARY, jti=CANARY, azp=CANARY, act={"sub": CANARY, "act": {"sub": CANARY}}
    )
    sent: Headers = {"authorization": f"Bearer {by_token}"}
    response: Headers = {"x-actor-id": CANARY, "x-actor-context": "dash"}
    explanation, sources = explained_identity(
        a_pair(url=url, request_headers=sent, response_headers=response)
    )
    of_issuer = f"of {ISSUER}"
    assert sources == {
        "actor.id": f"the claim act.sub {of_issuer}",
        "actor.token_id": f"the claim jti {of_issuer}",
        "identity.client": f"the claim azp {of_issuer}",
        "identity.on_behalf_of.id": f"the claim sub {of_issuer}",
        "identity.on_behalf_of.email": f"the claim email {of_issuer}",
    }
    assert "never recorded" in reason_of(explanation, "request: authorization")
    assert explanation.receipt is not None
    assert explanation.receipt.identity == Identity(
        IdentitySource.TOKEN, issuer=ISSUER, kind=IdentityKind.MACHINE
    )
    expired = {"authorization": f"Bearer {token(exp=1)}"}
    explanation, sources = explained_identity(
        a_pair(url=url, request_headers=dict(expired), response_headers=response)
    )
    assert sources == {
        "actor.id": "the response header x-actor-id",
        "actor.context": "the response header x-actor-context",
    }
    assert explanation.receipt is not None
    assert explanation.receipt.identity == Identity(IdentitySource.HEADERS, TokenReason.EXPIRED)


def test_a_token_in_a_header_that_the_document_denies_is_not_read() -> None:
    document = denying(("cf-access-jwt-assertion",), ())
    sent: Headers = {"cf-access-jwt-assertion": token("access-1", iss=OTHER_ISSUER, aud="tag")}
    explanation, sources = explained_identity(a_pair(request_headers=sent), document)
    assert sources == {}
    assert reason_of(explanation, "request: cf-access-jwt-assertion") == "the document denies it"


@pytest.mark.parametrize(
    ("peer", "chain", "source", "reason"),
    [
        ("10.0.0.1", "203.0.113.9", "the request header x-forwarded-for", "no trusted proxy"),
        ("203.0.113.9", "198.51.100.1", "the tap", "not come from a trusted proxy"),
        ("10.0.0.1", "unknown", None, "cannot be read"),
    ],
)
def test_the_address_comes_from_the_tap_or_from_trusted_proxies(
    peer: str, chain: str, source: str | None, reason: str
) -> None:
    pair = a_pair(request_headers={"x-forwarded-for": chain}, client_ip=peer)
    explanation, sources = explained_identity(pair)
    assert sources.get("actor.ip_address") == source
    assert reason in reason_of(explanation, "request: x-forwarded-for")
    assert explained_identity(a_pair(client_ip=peer))[1]["actor.ip_address"] == "the tap"
