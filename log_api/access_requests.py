"""Authentication logs: a view of the records of logins.

A login enters auditap like any other capture, from the identity provider's endpoint. The endpoint's OpenAPI document has
`x-audit-product: access` and `x-audit-resource-type: login` or `logout`, and marks the body fields that appear here.
What the response says precedes what the request says, and both precede what is known of the request itself: an identity
provider may deny a sign-in with status 200, and the actor may be a service that signs users in. Whether it was allowed is
never taken from the request: a client must not decide that.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from log_api.records import AuditRecord
from log_api.sql_builder import UNREADABLE_ESCAPES

ACTIONS = ("login", "logout")
FIELDS = (
    "id",
    "user_email",
    "ip_address",
    "app_uid",
    "app_domain",
    "app_type",
    "action",
    "connection",
    "allowed",
    "created_at",
    "country",
    "ray_id",
)
_UNREADABLE = re.compile(UNREADABLE_ESCAPES.encode())
_TEXTS_FROM_BODIES = ("app_domain", "app_type", "connection", "country")
_BODY_TEXTS = ("user_email", "ip_address", *_TEXTS_FROM_BODIES)
_FLAGS = {b"true": True, b"false": False}


class _BodyFields(NamedTuple):
    """What an entry shows of a recorded body: fields at its top level that have the right type."""

    texts: dict[str, str]
    allowed: bool | None


_NO_FIELDS = _BodyFields({}, None)
# Values stay JSON text, because one number out of range would make the whole body unreadable.
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def access_request(record: AuditRecord, fields: frozenset[str]) -> dict[str, Any]:
    """Return the entry for a login, reduced to `fields`."""
    request, response = _fields(record.resource.request), _fields(record.resource.response)
    texts = request.texts | response.texts
    allowed = record.action.result == "success" if response.allowed is None else response.allowed
    entry = {
        "id": record.id,
        "user_email": texts.get("user_email", record.actor_email),
        "ip_address": texts.get("ip_address", record.actor.ip_address),
        "app_uid": record.resource.id,
        "action": record.resource.type,
        "allowed": allowed,
        "created_at": record.action.time,
        # Collectors identify entries by it.
        "ray_id": record.raw.cf_ray_id or record.id,
        **{name: texts.get(name) for name in _TEXTS_FROM_BODIES},
    }
    return {name: entry[name] for name in FIELDS if name in fields}


def _fields(body: msgspec.Raw | msgspec.UnsetType) -> _BodyFields:
    """Return the fields of a recorded body, as the filters read them; none of a body that is no object."""
    if not isinstance(body, msgspec.Raw):
        return _NO_FIELDS
    try:
        members = _decode_members(_UNREADABLE.sub(rb"\1", bytes(body)))
    except (msgspec.DecodeError, RecursionError):
        return _NO_FIELDS
    texts: dict[str, str] = {}
    for name in _BODY_TEXTS:
        value = members.get(name)
        if value is not None and bytes(value).startswith(b'"'):
            texts[name] = msgspec.json.decode(value, type=str)
    allowed = members.get("allowed")
    return _BodyFields(texts, None if allowed is None else _FLAGS.get(bytes(allowed)))
