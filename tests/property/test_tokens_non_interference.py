"""The invariant for tokens: their bytes change nothing but who acted, and without a signature nothing but the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import parse_document
from schemas.capture import Capture, CapturedRequest, CapturedResponse
from schemas.event import (
    Actor,
    AuditEvent,
    Identity,
    IdentitySource,
    TokenReason,
    decode_event,
    encode_event,
)
from schemas.identity import new_id
from tests.agreeing import AgreeingRedactor
from tests.property.captures import a_document, fail
from tests.property.documents import CANARY
from tests.signed_tokens import AT_MS, ISSUERS, a_verifier, claims, token, with_parts

EVENT_ID = new_id(AT_MS)
MARKED = {"type": "object", "properties": {"a": {"type": "string", "x-auditable": True}}}
REDACTOR = AgreeingRedactor(
    [
        parse_document(
            DocumentConfig(Path("d.json")), json.dumps(a_document("3.1.0", MARKED, MARKED, {})).encode()
        )
    ],
    RedactionConfig(issuers=ISSUERS),
    fail,
    None,
    a_verifier(),
)
GENUINE = token()
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(CANARY)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
NAMES = ["iss", "aud", "sub", "email", "exp", "nbf", "iat", "jti", "act", "azp", "client_id", "common_name"]
PAYLOADS = st.dictionaries(st.sampled_from([*NAMES, "name", "roles"]), ANYTHING).map(
    lambda changed: {**claims(), **changed}
)
HEADS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "jwk", "jku", "crit", "x5c", CANARY]), ANYTHING
).map(lambda changed: {"alg": "RS256", "kid": "rsa-1", **changed})
FORGED = (
    st.builds(lambda head, body: with_parts(GENUINE, header=head, payload=body), HEADS, PAYLOADS)
    | st.text(min_size=1, max_size=60)
    | st.builds(
        lambda at, char: GENUINE[:at] + char + GENUINE[at + 1 :],
        st.integers(0, len(GENUINE) - 1),
        st.sampled_from("Az0_."),
    )
).filter(lambda forged: forged.strip(" \t") not in ("", GENUINE))


def event_with(bearer: str | None, **response: str) -> AuditEvent:
    headers: Any = {"content-type": "application/json"} | (
        {"authorization": f"Bearer {bearer}"} if bearer else {}
    )
    request = CapturedRequest("POST", "/accounts/a1/things/x", headers, '{"a": "kept", "b": "dropped"}')
    pair = Capture(
        request, CapturedResponse(200, {"content-type": "application/json", **response}, '{"a": "1"}')
    )
    value = REDACTOR.redact(pair, EVENT_ID)
    assert value is not None
    for part in (bearer or "").split("."):
        assert len(part) < 8 or part not in value.decode()
    return decode_event(value)


@given(FORGED, st.booleans())
def test_a_token_that_is_not_genuine_changes_no_byte_but_the_reason(forged: str, with_headers: bool) -> None:
    response = {"x-actor-id": "h-1", "x-account-id": "a-2"} if with_headers else {}
    event, bare = event_with(forged, **response), event_with(None, **response)
    source = IdentitySource.HEADERS if with_headers else IdentitySource.NONE
    identity = event.receipt.identity
    assert identity is None or identity == Identity(source, identity.reason)
    reason = None if identity is None else identity.reason
    assert reason is None or reason in TokenReason
    receipt = structs.replace(event.receipt, identity=bare.receipt.identity)
    assert encode_event(structs.replace(event, receipt=receipt)) == encode_event(bare)


@given(st.dictionaries(st.sampled_from(["name", "roles", "scope", "nonce", "groups"]), ANYTHING))
def test_a_claim_that_is_not_read_changes_no_byte(more: dict[str, Any]) -> None:
    assert event_with(token(**more)) == event_with(GENUINE)


@given(st.dictionaries(st.sampled_from([*NAMES, "email_verified"]), ANYTHING))
def test_a_genuine_token_changes_nothing_but_who_acted(changed: dict[str, Any]) -> None:
    event, bare = event_with(token(**changed)), event_with(None)
    receipt = structs.replace(event.receipt, identity=bare.receipt.identity, refused=())
    assert set(event.receipt.refused) <= {
        *("actor.id", "actor.email", "actor.token_id", "identity.client"),
        *("identity.on_behalf_of.id", "identity.on_behalf_of.email"),
    }
    assert encode_event(structs.replace(event, actor=Actor(), receipt=receipt)) == encode_event(bare)
