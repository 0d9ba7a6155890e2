"""Records with every kind of value that a log can hold, and what an unmodified client must read of each."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from math import isinf
from typing import Any

from log_api.records import ACTOR_CONTEXTS, ACTOR_TYPES
from schemas.identity import id_ms_of, rfc3339_ms
from schemas.record import Record
from tests.clients.served_log import SINCE_MS
from tests.records import record

_BODIES: Sequence[str | None] = (
    None,
    '{"enabled":true,"price":1.50,"tags":["a",{"b":null}]}',
    '{"n\u00e4me": "Žluťoučký kůň 馬 🐎",\n "quote": "a \\"b\\"\\n\\\\"}',
    # No double holds the first number.
    '{"far":-1e400,"text":"1e400","near":-1.5E2}',
    '[1,"x",null]',
    '"text"',
    "null",
    "{}",
)


def known_records(account_id: str) -> list[Record]:
    """Return 300 records, the same for every account: several pages, many of them in the same millisecond."""
    drawn = random.Random(8)
    kinds = itertools.product(
        ["create", "update", "delete", "view"],
        ["success", "failure"],
        ["api", "api_key", "api_token", "dash", "oauth", "origin_ca_key", None],
    )
    return [
        _known(account_id, number, kind, drawn)
        for number, kind in enumerate(itertools.islice(itertools.cycle(kinds), 300))
    ]


def _known(account_id: str, number: int, kind: tuple[str, str, str | None], drawn: random.Random) -> Record:
    action_type, result, context = kind
    by_token = context == "api_token"
    return record(
        SINCE_MS + number // 3 * 251,
        account_id=account_id,
        account_name=drawn.choice(["Acme", "Žižkov a.s. 馬", None]),
        action_description=drawn.choice(["Update a policy", "Richtlinie ändern", None]),
        action_result=result,
        action_type=action_type,
        actor_context=context,
        actor_email=drawn.choice(["one@example.com", "o'hara+x@mail.example.com", *_NO_ADDRESSES, None]),
        actor_id=drawn.choice(["u1", "arn:aws:iam::1:user/ana", None]),
        actor_ip_address=drawn.choice(["203.0.113.9", "2001:db8::7", None]),
        actor_token_id="t1" if by_token else None,
        actor_token_name=drawn.choice(["ci", "schlüssel", None]) if by_token else None,
        actor_type=drawn.choice(["user", "account", "system", "cloudflare_admin", "delegated_service", None]),
        raw_cf_ray_id=drawn.choice([f"ray{number}", None]),
        raw_method=drawn.choice(["PUT", "POST", "DELETE", "GET"]),
        raw_status_code=drawn.choice([200, 403, 500, None]),
        raw_uri=drawn.choice(["/accounts/x/policies/1?dry=1", "/ž/馬", None]),
        raw_user_agent=drawn.choice(["curl/8", None]),
        resource_id=drawn.choice(["p1", None]),
        resource_product=drawn.choice(["alerting", None]),
        resource_request=drawn.choice(_BODIES),
        resource_response=drawn.choice(_BODIES),
        resource_scope=drawn.choice(["accounts", "zones", None]),
        resource_type=drawn.choice(["policies", None]),
        zone_id=drawn.choice(["z1", None]),
        zone_name=drawn.choice(["example.com", "žluť.example", None]),
    )


_NO_ADDRESSES = ("CORP\\alice", "müller@example.com", "robot@localhost")
"""Names of users that gateways send as e-mail addresses, and that strict clients take for none."""


def shown_v2(one: Record) -> dict[str, Any]:
    """Return what a client must read of a record in audit logs v2."""
    at_ms = id_ms_of(one.id)
    parts: dict[str, dict[str, Any]] = {
        "account": {"id": one.account_id, "name": one.account_name or one.account_id},
        "action": {
            "description": one.action_description,
            "result": one.action_result,
            "time": rfc3339_ms(at_ms),
            "type": one.action_type,
        },
        "actor": {
            "id": one.actor_id,
            "context": one.actor_context if one.actor_context in ACTOR_CONTEXTS else None,
            "email": None if one.actor_email in _NO_ADDRESSES else one.actor_email,
            "ip_address": one.actor_ip_address,
            "token_id": one.actor_token_id,
            "token_name": one.actor_token_name,
            "type": one.actor_type if one.actor_type in ACTOR_TYPES else None,
        },
        "raw": {
            "cf_ray_id": one.raw_cf_ray_id,
            "method": one.raw_method,
            "status_code": one.raw_status_code,
            "uri": one.raw_uri,
            "user_agent": one.raw_user_agent,
        },
        "resource": {
            "id": one.resource_id,
            "product": one.resource_product,
            "request": _object(one.resource_request),
            "response": _object(one.resource_response),
            "scope": one.resource_scope,
            "type": one.resource_type,
        },
        "zone": {"id": one.zone_id, "name": one.zone_name or one.zone_id},
    }
    return {"id": one.id.hex, **{name: _present(part) for name, part in parts.items()}}


def _object(text: str | None) -> Any:
    if text is None:
        return None
    value = json.loads(text, parse_float=lambda number: number if isinf(float(number)) else float(number))
    return value if isinstance(value, dict) else {"value": value}


class _AnObject:
    """Equals any object: without a request, the new value is worked out from other records."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping)

    __hash__ = None  # type: ignore[assignment]


_AN_OBJECT = _AnObject()


def shown_v1(one: Record) -> dict[str, Any]:
    """Return what a client must read of a record in audit logs v1, beside the metadata."""
    types = {"user": "user", "cloudflare_admin": "admin", "system": "Cloudflare"}
    return {
        "id": one.id.hex,
        "action": _present({"result": one.action_result == "success", "type": one.action_type}),
        "actor": _present(
            {
                "id": one.actor_id,
                "email": one.actor_email,
                "ip": one.actor_ip_address,
                "type": types.get(one.actor_type or ""),
            }
        ),
        "owner": {"id": one.account_id},
        "resource": _present({"id": one.resource_id, "type": one.resource_type}),
        "newValueJson": _AN_OBJECT if one.resource_request is None else _object(one.resource_request),
        "when": rfc3339_ms(id_ms_of(one.id)),
    }


def read_v2(decoded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record that a client decoded, without what is ours and without the client's words for an absent value."""
    parts = {name: part for name, part in decoded.items() if name not in {"id", "auditap", "organization"}}
    return {"id": decoded["id"], **{name: _present(part) for name, part in parts.items()}}


def read_v1(decoded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a v1 record that every client decodes."""
    parts = {name: _present(decoded[name]) for name in ("action", "actor", "owner", "resource")}
    objects = {"newValueJson": decoded["newValueJson"]} if "newValueJson" in decoded else {}
    return {"id": decoded["id"], **parts, **objects, "when": _whole(decoded["when"])}


def _present(part: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what is absent: null in Python, undefined in JavaScript, an empty text or zero in Go."""
    kept: dict[str, Any] = {
        name: value for name, value in part.items() if value is False or value not in (None, "", 0)
    }
    return {**kept, "time": _whole(kept["time"])} if "time" in kept else kept


def _whole(time: str) -> str:
    # Go leaves out zeros at the end of a fraction, Python all zeros.
    whole, _, fraction = time.removesuffix("Z").partition(".")
    return f"{whole}.{fraction.rstrip('0'):0<3}Z"
