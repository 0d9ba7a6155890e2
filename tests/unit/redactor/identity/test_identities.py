"""Who acted, in the event: a verified token before the response's headers, and the receipt says which and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from redactor.config import HeaderNames, RedactionConfig
from schemas.capture import Capture, Headers
from schemas.errors import StartupError
from schemas.event import (
    Actor,
    AuditEvent,
    Identity,
    IdentityKind,
    IdentitySource,
    TokenReason,
    UnmatchedReason,
    decode_event,
)
from schemas.identity import new_id
from tests.agreeing import AgreeingRedactor
from tests.signed_tokens import (
    AT_MS,
    AT_S,
    ISSUER,
    ISSUERS,
    OTHER_ISSUER,
    a_verifier,
    an_issuer,
    claims,
    token,
    with_parts,
)
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import a_pair, fail
from tests.unit.redactor.schemas import TEXT, Node

EVENT_ID = new_id(AT_MS)
BY_HEADERS: Headers = {"x-actor-id": "h-1", "x-actor-email": "header@example.com", "x-account-id": "a-1"}
PATHS: Node = {"/things": {"post": an_operation()}, "/accounts/{account_id}/things": {"post": an_operation()}}


class Counted:
    """An `Observer`; not a subclass of one, which compiled code would not allow."""

    def __init__(self) -> None:
        self.tokens: Counter[str] = Counter()

    def unmatched(self, reason: UnmatchedReason, *, altered: bool) -> None:
        pass

    def refused(self, fields: Sequence[str]) -> None:
        pass

    def without_account(self) -> None:
        pass

    def token(self, reason: TokenReason | None) -> None:
        self.tokens["verified" if reason is None else reason.value] += 1


def a_redactor(paths: Node = PATHS, observer: Counted | None = None, **settings: Any) -> AgreeingRedactor:
    config = RedactionConfig(issuers=ISSUERS, **settings)
    return AgreeingRedactor([loaded(a_document(paths))], config, fail, observer, a_verifier())


def of(pair: Capture, redactor: AgreeingRedactor | None = None) -> AuditEvent:
    return decode_event((redactor or a_redactor()).redact(pair, EVENT_ID) or b"")


def sent(bearer: str | None, response: Headers | None = None, **more: Any) -> Capture:
    headers: Headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
    return a_pair(request_headers=headers, response_headers=response, client_ip="203.0.113.9", **more)


BY_TOKEN = Actor(id="u-1", email="who@example.com", ip_address="203.0.113.9", token_id="t-1", type="user")


@pytest.mark.parametrize("url", ["/things", "//things", "/accounts/a/things", "/none"])
def test_a_verified_token_goes_before_the_responses_headers(url: str) -> None:
    event = of(sent(token(), {**BY_HEADERS, "x-actor-context": "dash", "x-actor-token-name": "n"}, url=url))
    # All of it, because fields of two sources might be of two people.
    assert event.actor == BY_TOKEN
    assert event.receipt.identity == Identity(IdentitySource.TOKEN, issuer=ISSUER, kind=IdentityKind.USER)
    assert event.account.id == ("a" if "accounts" in url else "a-1")


@pytest.mark.parametrize("url", ["/things", "//things", "/none"])
@pytest.mark.parametrize(
    ("bearer", "reason"),
    [
        (None, None),
        (token(exp=AT_S - 600), TokenReason.EXPIRED),
        (with_parts(token(), payload=claims(sub="root")), TokenReason.SIGNATURE),
        ("opaque", TokenReason.MALFORMED),
    ],
)
def test_without_a_verified_token_the_responses_headers_count(
    bearer: str | None, reason: TokenReason | None, url: str
) -> None:
    event = of(sent(bearer, BY_HEADERS, url=url))
    assert event.actor == Actor(id="h-1", email="header@example.com", ip_address="203.0.113.9")
    assert event.receipt.identity == Identity(IdentitySource.HEADERS, reason)
    event = of(sent(bearer, url=url))
    assert event.actor == Actor(ip_address="203.0.113.9")
    assert event.receipt.identity == Identity(IdentitySource.NONE, reason)


def test_what_the_request_claims_without_a_signature_counts_for_nothing() -> None:
    forged: Headers = {
        "x-actor-id": "root",
        "x-actor-email": "root@example.com",
        "cf-access-authenticated-user-email": "root@example.com",
        "x-goog-authenticated-user-email": "root@example.com",
        "x-forwarded-for": "198.51.100.1",
        "x-amzn-oidc-identity": "root",
    }
    assert of(a_pair(request_headers=forged)) == of(a_pair())


def test_without_issuers_no_token_is_read() -> None:
    redactor = AgreeingRedactor([loaded(a_document(PATHS))], RedactionConfig(), fail)
    assert redactor.redact(sent(token()), EVENT_ID) == redactor.redact(sent(None), EVENT_ID)
    assert of(sent(token()), redactor).receipt.identity is None


def test_without_keys_no_token_is_verified() -> None:
    redactor = AgreeingRedactor([loaded(a_document(PATHS))], RedactionConfig(issuers=ISSUERS), fail)
    assert of(sent(token()), redactor).receipt.identity == Identity(IdentitySource.NONE, TokenReason.NO_KEYS)


@pytest.mark.parametrize("url", ["/things", "//things"])
def test_a_document_that_denies_the_header_has_its_token_read_as_if_it_were_not_there(url: str) -> None:
    parameter = {"name": "Cf-Access-Jwt-Assertion", "in": "header", "schema": TEXT, "x-sensitive": True}
    redactor = a_redactor({"/things": {"post": an_operation(parameters=[parameter])}})
    access = {"cf-access-jwt-assertion": token("access-1", iss=OTHER_ISSUER, aud="tag")}
    event = of(a_pair(url=url, request_headers=dict(access)), redactor)
    assert event.actor == Actor()
    assert event.receipt.identity == Identity(IdentitySource.NONE)
    assert of(a_pair(request_headers=dict(access))).actor.id == "u-1"


def test_a_refused_claim_is_named_beside_refused_headers() -> None:
    event = of(sent(token(email="\n"), {"x-account-id": "-"}))
    assert event.actor.email is None
    assert event.receipt.refused == ("account.id", "actor.email")


def test_tokens_are_counted_by_outcome() -> None:
    observer = Counted()
    redactor = a_redactor(observer=observer)
    for pair in (sent(token()), sent(token(), url="//things"), sent("x"), sent("x", url="/none"), sent(None)):
        redactor.redact(pair, EVENT_ID)
    assert observer.tokens == {"verified": 2, "malformed": 2}
    access = token("access-1", iss=OTHER_ISSUER, aud="tag")
    pair = a_pair(request_headers={"authorization": "Bearer x", "cf-access-jwt-assertion": access})
    redactor.redact(pair, EVENT_ID)
    assert observer.tokens == {"verified": 3, "malformed": 3}


def test_a_token_that_is_sent_again_gives_the_same_event_when_it_has_expired() -> None:
    redactor = a_redactor()
    first = redactor.redact(sent(token()), EVENT_ID)
    later = new_id(AT_MS + 3_600_000)
    assert of(sent(token()), redactor) == decode_event(first or b"")
    assert decode_event(redactor.redact(sent(token()), later) or b"").receipt.identity == Identity(
        IdentitySource.NONE, TokenReason.EXPIRED
    )
    assert redactor.redact(sent(token()), EVENT_ID) == first


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"issuer": ""}, "the claim `iss`"),
        ({"issuer": "https://a b"}, "the claim `iss`"),
        ({"audiences": ()}, "audiences"),
        ({"audiences": ("",)}, "audiences"),
        ({"headers": ()}, "headers"),
        ({"headers": ("Authorization",)}, "headers"),
        ({"headers": ("cookie",)}, "cookie"),
        ({"jwks_url": ""}, "jwks_url or jwks_file"),
        ({"jwks_url": "http://login.example.com/jwks"}, "https"),
        ({"jwks_url": "https://u:p@login.example.com/jwks"}, "login"),
        ({"jwks_url": "file:///etc/jwks"}, "https"),
        ({"jwks_url": "https://"}, "https"),
        ({"jwks_url": "https://[::1/jwks"}, "https"),
        ({"algorithms": ()}, "algorithms"),
        ({"clock_skew_ms": -1}, "clock_skew_ms"),
        ({"clock_skew_ms": 600_001}, "clock_skew_ms"),
    ],
)
def test_issuers_that_could_not_work_or_be_trusted_are_refused(
    changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(StartupError, match=sentence):
        an_issuer(**changed)


@pytest.mark.parametrize(
    "url", ["https://a.example/x", "http://127.0.0.1:1/x", "http://[::1]/x", "http://localhost/x"]
)
def test_keys_come_by_https_or_from_this_host(url: str) -> None:
    assert an_issuer(jwks_url=url).jwks_url == url


def test_issuers_and_headers_have_to_fit_together() -> None:
    with pytest.raises(StartupError, match="twice"):
        RedactionConfig(issuers=(an_issuer(), an_issuer(audiences=("b",))))
    with pytest.raises(StartupError, match="would be recorded"):
        RedactionConfig(issuers=(an_issuer(headers=("x-token",)),), headers=HeaderNames(user_agent="x-token"))
