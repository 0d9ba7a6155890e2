"""Which tokens say who acted, and which do not: every one that is forged, foreign or out of date is refused by its reason."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from redactor.identity.claims import ACTORS_BEFORE_MAX, VerifiedActor
from redactor.identity.signing_keys import SigningKeys, read_jwks
from redactor.identity.tokens import TOKEN_CHARS_MAX, TOKENS_MAX, TokenVerifier
from schemas.capture import Headers
from schemas.event import Actor, Identity, IdentityKind, IdentitySource, Principal, TokenReason
from tests.invisible_texts import INVISIBLE
from tests.signed_tokens import (
    AT_MS,
    AT_S,
    AUDIENCE,
    ISSUER,
    OTHER_ISSUER,
    a_verifier,
    an_issuer,
    claims,
    jwk,
    jwks,
    known_keys,
    private_key,
    token,
    with_parts,
)

SKEW_S = 60


def outcome(
    *sent: str, verifier: TokenVerifier | None = None, **more: str
) -> VerifiedActor | TokenReason | None:
    """What a token after `Bearer`, and those in other headers, say."""
    headers: Headers = {"Authorization": [f"Bearer {each}" for each in sent]} if sent else {}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    verifier = verifier or a_verifier()
    found = verifier.verify(headers, AT_MS)
    # What is remembered must change nothing.
    assert verifier.verify(headers, AT_MS) == found
    return found


def actor_of(*sent: str, **more: Any) -> VerifiedActor:
    found = outcome(*sent, **more)
    assert isinstance(found, VerifiedActor), found
    return found


ACTOR = Actor(id="u-1", email="who@example.com", token_id="t-1", type="user")


@pytest.mark.parametrize(("key", "algorithm"), [("rsa-1", "RS256"), ("ec-1", "ES256")])
def test_a_genuine_token_says_who_acted(key: str, algorithm: str) -> None:
    found = actor_of(token(key, algorithm))
    assert found.actor == ACTOR
    assert found.identity == Identity(IdentitySource.TOKEN, issuer=ISSUER, kind=IdentityKind.USER)
    assert found.refused == ()


@pytest.mark.parametrize(
    "value",
    [
        "Bearer {}",
        "bearer {}",
        "BEARER   {}",
        " Bearer {}\t",
        "Bearer\t{}",
        "bEARER \t {}",
        "Bearer\x0b{}",
        "Bearer\xa0{}",
    ],
)
def test_bearer_is_read_in_any_case_with_any_blanks(value: str) -> None:
    assert isinstance(a_verifier().verify({"authorization": value.format(token())}, AT_MS), VerifiedActor)


@pytest.mark.parametrize(
    "value",
    [
        "Bearer{}",
        "Bearer:{}",
        "Bearer,{}",
        "Bearer\u200b{}",
        "Bearer\0{}",
        "\ufeffBearer {}",
        "Bearer {} ,",
        "Bearer {}, Bearer {}",
        "Bearer Bearer {}",
        "Basic dTpw, Bearer {}",
        "Bearer opaque",
    ],
)
def test_bearer_in_another_form_is_malformed_and_never_silent(value: str) -> None:
    headers: Headers = {"authorization": value.replace("{}", token())}
    assert a_verifier().verify(headers, AT_MS) is TokenReason.MALFORMED
    assert a_verifier().unknown_keys(headers) == ()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Basic dTpw"},
        {"authorization": []},
        {"authorization": ""},
        {"authorization": "Bearer "},
        {"x-token": token()},
    ],
)
def test_a_request_without_a_token_is_no_mistake(headers: Headers) -> None:
    assert a_verifier().verify(headers, AT_MS) is None


def test_each_issuer_has_its_own_headers_and_audiences() -> None:
    assert (
        actor_of(cf_access_jwt_assertion=token("access-1", iss=OTHER_ISSUER, aud=["tag", "x"])).actor == ACTOR
    )
    two = a_verifier(an_issuer(), an_issuer(issuer=OTHER_ISSUER, audiences=("tag",)))
    assert actor_of(token(), verifier=two).identity.issuer == ISSUER
    assert (
        actor_of(token("access-1", iss=OTHER_ISSUER, aud="tag"), verifier=two).identity.issuer == OTHER_ISSUER
    )


PUBLIC_PEM = (
    private_key("rsa-1")
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)
UNSIGNED = jwt.encode(claims(), "", "none", {"kid": "rsa-1"})


def signed_with_the_public_key(algorithm: str = "HS256") -> str:
    # PyJWT refuses to sign with a PEM, as a forger does not.
    head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "rsa-1"}).encode()).rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    key = jwt.get_algorithm_by_name(algorithm)
    signature = key.sign(head + b"." + body, PUBLIC_PEM)
    return b".".join([head, body, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


FORGED_KEY = jwk("forged")
FORGERIES: list[tuple[str, TokenReason]] = [
    # Signatures and algorithms.
    (token("forged", headers={"kid": "rsa-1"}), TokenReason.SIGNATURE),
    (token()[:-4] + "AAAA", TokenReason.SIGNATURE),
    (with_parts(token(), payload=claims(sub="root")), TokenReason.SIGNATURE),
    (UNSIGNED, TokenReason.ALGORITHM),
    (with_parts(token(), header={"alg": "NONE", "kid": "rsa-1"}), TokenReason.ALGORITHM),
    (with_parts(token(), header={"alg": "", "kid": "rsa-1"}), TokenReason.ALGORITHM),
    (with_parts(token(), header={"kid": "rsa-1"}), TokenReason.ALGORITHM),
    (with_parts(token(), header={"alg": ["RS256"], "kid": "rsa-1"}), TokenReason.ALGORITHM),
    (signed_with_the_public_key("HS256"), TokenReason.ALGORITHM),
    (signed_with_the_public_key("HS512"), TokenReason.ALGORITHM),
    (token("rsa-1", "RS512"), TokenReason.ALGORITHM),
    (token("rsa-1", "PS256"), TokenReason.ALGORITHM),
    (token("rsa-1", headers={"kid": "ec-1"}), TokenReason.ALGORITHM),
    (token("ec-1", "ES256", headers={"kid": "rsa-1"}), TokenReason.ALGORITHM),
    # Keys.
    (with_parts(token(), header={"alg": "RS256", "kid": None}), TokenReason.MALFORMED),
    (with_parts(token(), header={"alg": "RS256"}), TokenReason.UNKNOWN_KEY),
    (token("forged"), TokenReason.UNKNOWN_KEY),
    (token("forged", headers={"jwk": FORGED_KEY}), TokenReason.UNKNOWN_KEY),
    (token("forged", headers={"jwk": FORGED_KEY, "kid": "rsa-1"}), TokenReason.SIGNATURE),
    (token("forged", headers={"jku": "https://forger.example/jwks", "kid": "rsa-1"}), TokenReason.SIGNATURE),
    (token("forged", headers={"x5u": "https://forger.example/cert", "kid": "rsa-1"}), TokenReason.SIGNATURE),
    (token("forged", headers={"x5c": ["MIIB"], "kid": "rsa-1"}), TokenReason.SIGNATURE),
    (token("forged", headers={"kid": "../../dev/null"}), TokenReason.UNKNOWN_KEY),
    (token("access-1"), TokenReason.UNKNOWN_KEY),
    # Whose token it is, and for whom.
    (token(iss="https://evil.example/"), TokenReason.ISSUER),
    (token(iss=ISSUER.rstrip("/")), TokenReason.ISSUER),
    (token(iss=None), TokenReason.ISSUER),
    (with_parts(token(), payload=claims(iss=[ISSUER])), TokenReason.ISSUER),
    (token("access-1", iss=OTHER_ISSUER, aud="tag"), TokenReason.ISSUER),
    (token(aud="https://other.example.com"), TokenReason.AUDIENCE),
    (token(aud=["https://other.example.com"]), TokenReason.AUDIENCE),
    (token(aud=None), TokenReason.AUDIENCE),
    (token(aud=[]), TokenReason.AUDIENCE),
    (token(aud=AUDIENCE + "/"), TokenReason.AUDIENCE),
    # Times.
    (token(exp=AT_S - SKEW_S), TokenReason.EXPIRED),
    (token(nbf=AT_S + SKEW_S + 1), TokenReason.NOT_YET_VALID),
    (token(iat=AT_S + SKEW_S + 1), TokenReason.NOT_YET_VALID),
    (token(exp=None), TokenReason.CLAIMS),
    (token(exp="2099-01-01"), TokenReason.CLAIMS),
    (token(exp=True), TokenReason.CLAIMS),
    (token(exp=float("nan")), TokenReason.CLAIMS),
    (token(exp=float("inf")), TokenReason.CLAIMS),
    (token(exp=10**400), TokenReason.CLAIMS),
    (token(nbf="0"), TokenReason.CLAIMS),
    (token(iat=[0]), TokenReason.CLAIMS),
    # What is no token.
    ("opaque", TokenReason.MALFORMED),
    ("a.b.c", TokenReason.MALFORMED),
    ("..", TokenReason.MALFORMED),
    (token() + ".x", TokenReason.MALFORMED),
    (token().replace(".", ".é", 1), TokenReason.MALFORMED),
    (with_parts(token(), payload=[1]), TokenReason.MALFORMED),
    (token(headers={"crit": ["exp"], "exp": 1}), TokenReason.MALFORMED),
    (token(headers={"b64": False, "crit": ["b64"]}), TokenReason.MALFORMED),
    (
        ".".join([token().split(".")[0], base64.urlsafe_b64encode(b"[" * 9_000).decode(), "AA"]),
        TokenReason.MALFORMED,
    ),
    (token(more="x" * TOKEN_CHARS_MAX), TokenReason.TOO_LARGE),
    # Whom it names.
    (token(sub=None, email=None), TokenReason.CLAIMS),
    (token(sub="", email=""), TokenReason.CLAIMS),
    (token(sub=7, email=None), TokenReason.CLAIMS),
    (token(act="admin"), TokenReason.CLAIMS),
    (token(act={}), TokenReason.CLAIMS),
    (token(act={"sub": 7}), TokenReason.CLAIMS),
    (token(act={"sub": "admin"}, sub=None, email=None), TokenReason.CLAIMS),
    (token(act={"sub": "admin", "act": {"name": "x"}}), TokenReason.CLAIMS),
    (token(act={"sub": "admin", "act": "x"}), TokenReason.CLAIMS),
]


@pytest.mark.parametrize(("forged", "reason"), FORGERIES)
def test_no_forged_foreign_or_outdated_token_says_who_acted(forged: str, reason: TokenReason) -> None:
    assert outcome(forged) is reason


ASSERTION = token("access-1", iss=OTHER_ISSUER, aud="tag")


def test_several_genuine_tokens_say_nothing() -> None:
    assert outcome(token(), token(sub="u-2")) is TokenReason.SEVERAL
    assert outcome(token(), token()) is TokenReason.SEVERAL
    assert outcome(token(), cf_access_jwt_assertion=ASSERTION) is TokenReason.SEVERAL
    assert outcome(token(), authorization=f"Bearer {token()}") is TokenReason.SEVERAL
    assert outcome("x", token(), token(sub="u-2"), "y") is TokenReason.SEVERAL


@pytest.mark.parametrize(
    ("beside", "reason"),
    [
        (["x"], TokenReason.MALFORMED),
        ([token("forged", headers={"kid": "rsa-1"})], TokenReason.SIGNATURE),
        ([token(exp=AT_S - SKEW_S)], TokenReason.EXPIRED),
        ([token(aud="https://other.example.com")], TokenReason.AUDIENCE),
        (["x", token(aud="https://other.example.com"), "y"], TokenReason.AUDIENCE),
        # No later check hides a forgery.
        ([token(exp=AT_S - SKEW_S), UNSIGNED, "x"], TokenReason.ALGORITHM),
    ],
)
def test_a_token_that_is_not_genuine_does_not_cancel_a_genuine_one(
    beside: list[str], reason: TokenReason
) -> None:
    found = actor_of(*beside, cf_access_jwt_assertion=ASSERTION)
    assert found.actor == ACTOR
    assert (found.identity.issuer, found.identity.reason) == (OTHER_ISSUER, reason)
    assert outcome(*beside) is reason


def test_so_many_tokens_are_verified_and_no_more() -> None:
    assert actor_of(*["x"] * (TOKENS_MAX - 1), token()).actor == ACTOR
    assert outcome(*["x"] * TOKENS_MAX, token()) is TokenReason.SEVERAL


def test_another_token_does_not_keep_keys_from_being_fetched() -> None:
    unknown = f"Bearer {token('rsa-2')}"
    verifier = a_verifier()
    assert verifier.unknown_keys({"authorization": ["Bearer x", unknown]}) == ((ISSUER, "rsa-2"),)
    both: Headers = {
        "authorization": [unknown, unknown],
        "cf-access-jwt-assertion": token("access-2", iss=OTHER_ISSUER),
    }
    assert set(verifier.unknown_keys(both)) == {(ISSUER, "rsa-2"), (OTHER_ISSUER, "access-2")}
    assert verifier.unknown_keys({"authorization": [unknown] * (TOKENS_MAX + 1)}) == ()


def test_a_token_counts_in_its_issuers_headers_alone() -> None:
    assert outcome(cf_access_jwt_assertion=token()) is TokenReason.ISSUER
    verifier = a_verifier()
    right: Headers = {"authorization": f"Bearer {token()}"}
    assert isinstance(verifier.verify(right, AT_MS), VerifiedActor)
    # Although it is remembered as genuine.
    assert verifier.verify({"cf-access-jwt-assertion": token()}, AT_MS) is TokenReason.ISSUER


def test_times_are_those_of_the_capture() -> None:
    verifier, headers = a_verifier(), {"authorization": f"Bearer {token()}"}
    for at_s, expected in (
        (AT_S - 120, None),
        (AT_S - 121, TokenReason.NOT_YET_VALID),
        (AT_S + 659, None),
        (AT_S + 660, TokenReason.EXPIRED),
        (AT_S, None),
    ):
        found = verifier.verify({**headers}, at_s * 1000)
        assert isinstance(found, VerifiedActor) if expected is None else found is expected


def test_skew_is_a_setting() -> None:
    exact = a_verifier(an_issuer(clock_skew_ms=0))
    assert outcome(token(exp=AT_S), verifier=exact) is TokenReason.EXPIRED
    assert outcome(token(nbf=AT_S + 1), verifier=exact) is TokenReason.NOT_YET_VALID
    assert actor_of(token(exp=AT_S + 1), verifier=exact).actor == ACTOR


def test_other_algorithms_are_a_setting() -> None:
    verifier = a_verifier(an_issuer(algorithms=("PS256",)))
    assert actor_of(token("rsa-1", "PS256"), verifier=verifier).actor == ACTOR
    assert outcome(token(), verifier=verifier) is TokenReason.ALGORITHM


def test_keys_that_rotate_count_from_then_on_and_a_while_longer() -> None:
    keys = known_keys()
    verifier = a_verifier(keys=keys)
    old, new = token("rsa-1"), token("rsa-2")
    assert outcome(new, verifier=verifier) is TokenReason.UNKNOWN_KEY
    assert verifier.unknown_keys({"authorization": f"Bearer {new}"}) == ((ISSUER, "rsa-2"),)
    keys.replace(ISSUER, read_jwks(jwks(jwk("rsa-2"))), AT_MS)
    assert verifier.unknown_keys({"authorization": f"Bearer {new}"}) == ()
    assert actor_of(new, verifier=verifier) == actor_of(old, verifier=verifier)
    keys.expire(AT_MS + 3_599_999)
    assert actor_of(old, verifier=verifier).actor == ACTOR
    keys.expire(AT_MS + 3_600_000)
    assert outcome(old, verifier=verifier) is TokenReason.UNKNOWN_KEY
    assert actor_of(new, verifier=verifier).actor == ACTOR


def test_a_key_that_another_replaces_under_its_id_counts_no_longer() -> None:
    keys = known_keys()
    verifier = a_verifier(keys=keys)
    assert actor_of(token(), verifier=verifier).actor == ACTOR
    keys.replace(ISSUER, read_jwks(jwks(jwk("forged", kid="rsa-1"))), AT_MS)
    assert outcome(token(), verifier=verifier) is TokenReason.SIGNATURE


def test_keys_that_cannot_be_fetched_count_for_a_day() -> None:
    keys = known_keys()
    verifier = a_verifier(keys=keys)
    keys.expire(AT_MS + 86_399_999)
    assert actor_of(token(), verifier=verifier).actor == ACTOR
    keys.expire(AT_MS + 86_400_000)
    assert outcome(token(), verifier=verifier) is TokenReason.NO_KEYS
    assert (
        outcome(token(), verifier=a_verifier(keys=SigningKeys([ISSUER, OTHER_ISSUER]))) is TokenReason.NO_KEYS
    )


@pytest.mark.parametrize("forged", [each for each, _ in FORGERIES if len(each) < TOKEN_CHARS_MAX])
def test_no_forged_token_is_remembered_or_makes_keys_be_fetched_for_a_known_one(forged: str) -> None:
    verifier = a_verifier()
    headers: Headers = {"authorization": f"Bearer {forged}"}
    asked = tuple(each.issuer for each in verifier.unknown_keys(headers))
    assert asked in ((), (ISSUER,))
    if verifier.verify(headers, AT_MS) is TokenReason.UNKNOWN_KEY and jwt.get_unverified_header(forged).get(
        "kid"
    ):
        assert asked == (ISSUER,)
    assert forged not in repr(vars(verifier))


@pytest.mark.parametrize(
    ("changed", "actor", "kind", "client"),
    [
        ({"azp": "app"}, ACTOR, IdentityKind.USER, "app"),
        ({"client_id": "app", "azp": "x"}, ACTOR, IdentityKind.USER, "app"),
        (
            {"sub": "svc", "client_id": "svc", "email": None},
            Actor(id="svc", token_id="t-1", type="system"),
            IdentityKind.MACHINE,
            "svc",
        ),
        (
            {"sub": "svc", "azp": "svc", "email": None},
            Actor(id="svc", token_id="t-1", type="system"),
            IdentityKind.MACHINE,
            "svc",
        ),
        (
            {"sub": "", "common_name": "ci.access", "email": None, "jti": None},
            Actor(id="ci.access", type="system"),
            IdentityKind.MACHINE,
            None,
        ),
        ({"common_name": "Alice"}, ACTOR, IdentityKind.USER, None),
    ],
)
def test_machines_are_told_from_people(
    changed: dict[str, Any], actor: Actor, kind: IdentityKind, client: str | None
) -> None:
    found = actor_of(token(**changed))
    assert found.actor == actor
    assert (found.identity.kind, found.identity.client) == (kind, client)


def test_the_actor_of_a_token_with_an_actor_claim_is_who_acts() -> None:
    acting = {"sub": "admin", "email": "admin@example.com", "act": {"sub": "gateway", "act": {"sub": "edge"}}}
    found = actor_of(token(act=acting))
    assert found.actor == Actor(id="admin", email="admin@example.com", token_id="t-1", type="user")
    assert found.identity == Identity(
        IdentitySource.TOKEN,
        issuer=ISSUER,
        kind=IdentityKind.USER,
        on_behalf_of=Principal("u-1", "who@example.com"),
        via=("gateway", "edge"),
    )
    service = actor_of(token(act={"sub": "svc"}, client_id="svc"))
    assert (service.actor.id, service.actor.type) == ("svc", "system")
    assert service.identity.on_behalf_of == Principal("u-1", "who@example.com")


def test_a_chain_of_actors_has_an_end() -> None:
    def chain(length: int) -> dict[str, Any]:
        return {"sub": f"a{length}"} | ({"act": chain(length - 1)} if length > 1 else {})

    longest = actor_of(token(act=chain(ACTORS_BEFORE_MAX + 1)))
    assert len(longest.identity.via) == ACTORS_BEFORE_MAX
    assert outcome(token(act=chain(ACTORS_BEFORE_MAX + 2))) is TokenReason.CLAIMS


NOT_VERIFIED = ["false", "False", "FALSE", "no", "0", "", 0, 1, [], {}, "True", "yes"]


@pytest.mark.parametrize("value", [True, "true"])
def test_an_address_that_the_issuer_has_verified_is_kept(value: Any) -> None:
    assert actor_of(token(email_verified=value)).actor == ACTOR
    acting = {"sub": "admin", "email": "admin@example.com"}
    assert actor_of(token(act={**acting, "email_verified": value})).actor.email == "admin@example.com"


def test_an_actor_claims_address_that_is_not_verified_is_refused() -> None:
    found = actor_of(token(act={"sub": "admin", "email": "ceo@example.com", "email_verified": False}))
    assert (found.actor.id, found.actor.email, found.refused) == ("admin", None, ("actor.email",))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"email": "who@example.com\n"}, "actor.email"),
        ({"email": 7}, "actor.email"),
        ({"email_verified": False}, "actor.email"),
        *(({"email_verified": value}, "actor.email") for value in NOT_VERIFIED),
        ({"sub": "\u202eroot"}, "actor.id"),
        ({"sub": "x" * 1_025}, "actor.id"),
        *(({"sub": value}, "actor.id") for value in INVISIBLE),
        ({"sub": " "}, "actor.id"),
        ({"jti": "\u3000\xa0"}, "actor.token_id"),
        ({"jti": ["t"]}, "actor.token_id"),
        ({"azp": "\0"}, "identity.client"),
    ],
)
def test_a_claim_that_is_refused_leaves_its_fields_name(changed: dict[str, Any], field: str) -> None:
    found = actor_of(token(**changed))
    assert found.refused == (field,)
    part, _, name = field.partition(".")
    assert getattr(found.actor if part == "actor" else found.identity, name) is None


def test_blanks_around_a_claim_are_not_part_of_it() -> None:
    acting = {"sub": "\u3000admin ", "email": "\xa0a@example.com", "act": {"sub": " edge\t"}}
    found = actor_of(token(sub=" u-1\u2003", jti="t 1 ", act=acting, client_id="\u3000admin "))
    assert found.actor == Actor(id="admin", email="a@example.com", token_id="t 1", type="system")
    assert found.identity.on_behalf_of == Principal("u-1", "who@example.com")
    assert (found.identity.client, found.identity.via) == ("admin", ("edge",))


def test_claims_are_a_setting() -> None:
    issuer = an_issuer(
        claims=type(an_issuer().claims)(id="oid", email="upn", token_id="uti", token_name="app")
    )
    found = actor_of(token(oid="o-1", upn="u@example.com", uti="i-1", app="a"), verifier=a_verifier(issuer))
    assert found.actor == Actor(id="o-1", email="u@example.com", token_id="i-1", token_name="a", type="user")
    assert found.claims == {
        "actor.id": "oid",
        "actor.email": "upn",
        "actor.token_id": "uti",
        "actor.token_name": "app",
    }
