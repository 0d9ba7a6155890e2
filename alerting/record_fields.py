"""The fields that alert rules can read, by name. **A new field is a row of `_COLUMNS`, and a line in docs/alerts.md.**

A field is a column of the record, a part of its receipt, or a JSON pointer into one of its two redacted bodies:
`resource.request#/roles/*`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from schemas.record import Record


class SubjectFields(msgspec.Struct, frozen=True, gc=False):
    """Who it was in whose name the actor acted."""

    id: str | None = None
    email: str | None = None


class IdentityFields(msgspec.Struct, frozen=True, gc=False):
    """What rules can read of what said who acted: `identity.reason`, for example. Its subject is a member of its own."""

    source: str | None = None
    reason: str | None = None
    issuer: str | None = None
    kind: str | None = None
    client: str | None = None
    via: tuple[str, ...] = ()
    on_behalf_of: SubjectFields | None = None


class ReceiptFields(msgspec.Struct, frozen=True, gc=False):
    """What rules can read of a receipt: `receipt.unmatched`, for example."""

    unmatched: str | None = None
    altered: bool = False
    refused: tuple[str, ...] = ()
    identity: IdentityFields | None = None


# The name that the log API serves → the attribute of `schemas.record.Record`. docs/alerts.md lists the names, and a
# test holds the two together.
_COLUMNS = {
    "account.id": "account_id",
    "account.name": "account_name",
    "action.description": "action_description",
    "action.result": "action_result",
    "action.type": "action_type",
    "actor.id": "actor_id",
    "actor.context": "actor_context",
    "actor.email": "actor_email",
    "actor.ip_address": "actor_ip_address",
    "actor.token_id": "actor_token_id",
    "actor.token_name": "actor_token_name",
    "actor.type": "actor_type",
    "raw.cf_ray_id": "raw_cf_ray_id",
    "raw.method": "raw_method",
    "raw.status_code": "raw_status_code",
    "raw.uri": "raw_uri",
    "raw.user_agent": "raw_user_agent",
    "resource.id": "resource_id",
    "resource.product": "resource_product",
    "resource.scope": "resource_scope",
    "resource.type": "resource_type",
    "zone.id": "zone_id",
    "zone.name": "zone_name",
    "operation.id": "operation_id",
    "tap.id": "tap_id",
}
_BODIES = ("resource.request", "resource.response")
_RECEIPT = "receipt."
_OF_RECEIPT = tuple(name for name in ReceiptFields.__struct_fields__ if name != "identity")
_IDENTITY = "identity."
_OF_IDENTITY = tuple(name for name in IdentityFields.__struct_fields__ if name != "on_behalf_of")
_OF_SUBJECT = {"on_behalf_of_id": "id", "on_behalf_of_email": "email"}
FIELDS = (
    *_COLUMNS,
    *_BODIES,
    *(_RECEIPT + name for name in _OF_RECEIPT),
    *(_IDENTITY + name for name in (*_OF_IDENTITY, *_OF_SUBJECT)),
)

Values = Sequence[Any]
FieldReader = Callable[["RecordView"], Values]
# A `*` may stand for many elements: what is beyond this is ignored, so that one record cannot stall the evaluation.
_VALUES_MAX = 1_000
# Python converts no longer integers between text and number.
_INTEGER_CHARS_MAX = 4_300
_decode = msgspec.json.Decoder().decode
_decode_receipt = msgspec.json.Decoder(ReceiptFields).decode


class RecordView:
    """A record as rules read it. `at_ms`: time of the action (Unix ms). Bodies are decoded on first use, once."""

    __slots__ = ("_bodies", "_receipt", "at_ms", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.at_ms = record.id.int >> 80
        self._bodies: dict[str, Any] = {}
        self._receipt: ReceiptFields | None = None

    @property
    def receipt(self) -> ReceiptFields:
        """What rules can read of the receipt."""
        if self._receipt is None:
            self._receipt = _decode_receipt(self.record.receipt)
        return self._receipt

    def body(self, name: str) -> Any:
        """Return `resource.request` or `resource.response` decoded; None where there is none, or no JSON."""
        if name not in self._bodies:
            text = self.record.resource_request if name == _BODIES[0] else self.record.resource_response
            self._bodies[name] = None if text is None else _decoded(text)
        return self._bodies[name]


def field_reader(name: str) -> FieldReader:
    """Return a function that reads all values of a field: none where the record lacks it. Raises KeyError.

    In a pointer, `*` stands for every element of an array and every value of an object.
    """
    column = _COLUMNS.get(name)
    if column is not None:
        return lambda view: _one(getattr(view.record, column))
    of_receipt = name.removeprefix(_RECEIPT)
    if of_receipt != name and of_receipt in _OF_RECEIPT:
        return lambda view: _each(getattr(view.receipt, of_receipt))
    if name.startswith(_IDENTITY):
        return _identity_reader(name.removeprefix(_IDENTITY))
    body, hash_sign, pointer = name.partition("#")
    if body not in _BODIES or not hash_sign or (pointer and not pointer.startswith("/")):
        raise KeyError(name)
    steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])
    return lambda view: _values_at(view.body(body), steps)


def _identity_reader(name: str) -> FieldReader:
    """Return a function that reads a field of what said who acted. Raises KeyError."""
    if name in _OF_IDENTITY:
        return lambda view: _each(getattr(view.receipt.identity, name, None))
    member = _OF_SUBJECT[name]
    return lambda view: _one(getattr(getattr(view.receipt.identity, "on_behalf_of", None), member, None))


def column_of(name: str) -> str | None:
    """Return the record's attribute for a field; None for a pointer into a body."""
    return _COLUMNS.get(name)


def reads_body(name: str) -> bool:
    """Return whether reading the field decodes a body."""
    return "#" in name


def _one(value: Any) -> Values:
    return () if value is None else (value,)


def _each(value: Any) -> Values:
    return value if isinstance(value, tuple) else _one(value)


def _decoded(text: str) -> Any:
    try:
        return _decode(text)
    # What a client can send to make a body unreadable here must not hide its other fields from the rules.
    except msgspec.ValidationError:
        return _with_any_number(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _with_any_number(text: str) -> Any:
    """Decode JSON text with numbers out of range, such as `1e400`, as the nearest number in range; None if it is no JSON."""
    try:
        return json.loads(text, parse_int=_integer, parse_float=_nearest_float)
    except (ValueError, RecursionError):
        return None


def _integer(token: str) -> int | float:
    return int(token) if len(token) <= _INTEGER_CHARS_MAX else _nearest_float(token)


def _nearest_float(token: str) -> float:
    # Never infinite, because keys of alerts are JSON.
    return max(-sys.float_info.max, min(float(token), sys.float_info.max))


def _values_at(value: Any, steps: Sequence[str]) -> Values:
    """Return the scalars at a pointer; null counts as absent."""
    found = [value]
    for step in steps:
        found = [child for each in found for child in _children(each, step)][:_VALUES_MAX]
    return [each for each in found if each is not None and not isinstance(each, list | dict)]


def _children(value: Any, step: str) -> Values:
    if isinstance(value, dict):
        if step == "*":
            return list(value.values())
        return [value[step]] if step in value else []
    if isinstance(value, list):
        if step == "*":
            return value
        # `isdigit` alone would admit other digits, which RFC 6901 does not know as an index.
        is_index = step.isascii() and step.isdigit() and int(step) < len(value)
        return [value[int(step)]] if is_index else []
    return []
