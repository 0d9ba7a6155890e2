"""One record as rules see it: fields by name, and values inside its redacted bodies by pointer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from schemas.record import Record

_ATTRIBUTES = {
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
FIELDS = (*_ATTRIBUTES, *_BODIES)
"""Names of the record's fields, as the log API serves them; a body takes a pointer: `resource.request#/roles/*`."""

Values = Sequence[Any]
Field = Callable[["Facts"], Values]
_VALUES_MAX = 1_000
_decode = msgspec.json.Decoder().decode


class Facts:
    """A record, its time (Unix ms) and its id; bodies are decoded when a rule asks for them, once."""

    __slots__ = ("_bodies", "at_ms", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.at_ms = record.id.int >> 80
        self._bodies: dict[str, Any] = {}

    @property
    def id(self) -> UUID:
        """The record's id."""
        return self.record.id

    def body(self, name: str) -> Any:
        """Return `resource.request` or `resource.response` decoded, None where there is none."""
        if name not in self._bodies:
            text = self.record.resource_request if name == _BODIES[0] else self.record.resource_response
            self._bodies[name] = None if text is None else _decoded(text)
        return self._bodies[name]


def field(name: str) -> Field:
    """Return what reads a field: all its values, none where the record lacks it. Raises KeyError.

    `*` in a pointer stands for every element of an array and every value of an object.
    """
    attribute = _ATTRIBUTES.get(name)
    if attribute is not None:
        return lambda facts: _one(getattr(facts.record, attribute))
    body, hash_sign, pointer = name.partition("#")
    if body not in _BODIES or not hash_sign or (pointer and not pointer.startswith("/")):
        raise KeyError(name)
    steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])
    return lambda facts: _pointed(facts.body(body), steps)


def attribute_of(name: str) -> str | None:
    """Return the column of a field, None for what is in a body."""
    return _ATTRIBUTES.get(name)


def is_in_body(name: str) -> bool:
    """Return whether reading the field decodes a body."""
    return "#" in name


def _one(value: Any) -> Values:
    return () if value is None else (value,)


def _decoded(text: str) -> Any:
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _pointed(value: Any, steps: Sequence[str]) -> Values:
    found = [value]
    for step in steps:
        found = [below for each in found for below in _below(each, step)][:_VALUES_MAX]
    return [each for each in found if each is not None and not isinstance(each, list | dict)]


def _below(value: Any, step: str) -> Values:
    if isinstance(value, dict):
        return list(value.values()) if step == "*" else [value[step]] if step in value else []
    if isinstance(value, list):
        if step == "*":
            return value
        return [value[int(step)]] if step.isascii() and step.isdigit() and int(step) < len(value) else []
    return []
