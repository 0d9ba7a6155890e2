"""The record as the API returns it. Mirrors `schemas/audit_record.schema.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec

from schemas.event import Account, Action, Actor, Exchange, RawRequest, Resource, Tap, Zone
from schemas.http_requests import http_request
from schemas.identity import id_ms, rfc3339_ms

# Clients with closed enums reject a whole page for one value that they do not know. These are known to all of them.
ACTOR_CONTEXTS = frozenset({"api_key", "api_token", "dash", "oauth", "origin_ca_key"})
ACTOR_TYPES = frozenset({"account", "cloudflare_admin", "system", "user"})
ORGANIZATION_ACTOR_TYPES = frozenset({"cloudflare_admin", "system", "user"})
# An address that all of them accept, which is far from every address that there is.
_ADDRESS = re.compile(
    r"(?!.*\.\.)[\w'+-][\w'+.-]*(?<![.'])@(?:[A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}", re.ASCII
)

# Decoders of Go fail at a number that no double holds, and with it the page. Few texts may hold one: these are read again.
_MAY_HOLD_FAR_NUMBER = re.compile(r"\d[eE]\+?\d\d|\d{300}", re.ASCII)
_STRING_OR_NUMBER = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*', re.ASCII)

_NOT_KNOWN = Exchange()


class Row(Protocol):
    """A row of a named query, read by the names of its columns."""

    def __getitem__(self, column: str, /) -> Any: ...


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Facts about the record itself. `received_at`: when the collector received the capture.

    `clamped_from`: the time that the tap sent, if its clock was so far ahead that the record has the time of receipt.
    `exchange`: host, duration and size, where the operator lets them be recorded. `actor_email`: what was recorded as the actor's
    e-mail address, if strict clients would not accept it as one. `changes`: what the action changed, in histories that ask for it.
    """

    receipt: msgspec.Raw
    enrichment: str
    tap: Tap
    received_at: str
    exchange: Exchange | None = None
    operation_id: str | None = None
    clamped_from: str | None = None
    actor_email: str | None = None
    changes: Mapping[str, Any] | None = None


class Organization(msgspec.Struct, frozen=True):
    id: str


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record. Every part is present; unknown values are left out of their part. Recorded bodies are JSON objects."""

    id: str
    organization: Organization | msgspec.UnsetType = msgspec.UNSET
    """Only on the routes of an organization."""
    account: Account
    action: Action
    actor: Actor
    raw: RawRequest
    resource: Resource
    zone: Zone
    auditap: Provenance

    @property
    def actor_email(self) -> str | None:
        """What was recorded as the actor's e-mail address, be it one or not."""
        return self.actor.email or self.auditap.actor_email


class Page(NamedTuple):
    """The records of a page in order, and the id after which the next page starts; None on the last page."""

    records: Sequence[AuditRecord]
    after: UUID | None


def audit_record(row: Row, *, keep_unknown_values: bool = False) -> AuditRecord:
    """Return the record in a row of `records_by_id.sql`. Bodies and receipt are passed on as JSON text.

    A body that is no object is below the key `value`, and an unknown name is the id, because strict clients require
    objects and the account's name. `keep_unknown_values` shows values of `actor.context`, `actor.type` and `actor.email`
    that not every client accepts, and numbers that no double holds, which are texts otherwise.
    """
    record_id, clamped_from_ms = row["id"].hex, row["clamped_from_ms"]
    actor = _actor(row, keep_unknown_values=keep_unknown_values)
    return AuditRecord(
        id=record_id,
        account=Account(row["account_id"], row["account_name"] or row["account_id"]),
        action=Action(
            result=row["action_result"],
            time=rfc3339_ms(id_ms(record_id)),
            type=row["action_type"],
            description=row["action_description"],
        ),
        actor=actor,
        raw=RawRequest(
            cf_ray_id=row["raw_cf_ray_id"],
            method=row["raw_method"],
            status_code=row["raw_status_code"],
            uri=row["raw_uri"],
            user_agent=row["raw_user_agent"],
        ),
        resource=Resource(
            id=row["resource_id"],
            product=row["resource_product"],
            request=_object_text(row["resource_request"], keep_unknown_values=keep_unknown_values),
            response=_object_text(row["resource_response"], keep_unknown_values=keep_unknown_values),
            scope=row["resource_scope"],
            type=row["resource_type"],
        ),
        zone=Zone(row["zone_id"], row["zone_name"] or row["zone_id"]),
        auditap=Provenance(
            receipt=_on_one_line(row["receipt"]),
            enrichment=row["enrichment"],
            tap=Tap(row["tap_id"], row["tap_epoch"], row["tap_seq"]),
            received_at=rfc3339_ms(row["received_ms"]),
            exchange=_exchange(row),
            operation_id=row["operation_id"],
            clamped_from=None if clamped_from_ms is None else rfc3339_ms(clamped_from_ms),
            actor_email=row["actor_email"] if actor.email is None else None,
        ),
    )


def record_with_changes(record: AuditRecord, changes: Mapping[str, Any]) -> AuditRecord:
    """Return the record with what its action changed of its resource."""
    provenance = msgspec.structs.replace(record.auditap, changes=changes)
    return msgspec.structs.replace(record, auditap=provenance)


def organization_record(
    record: AuditRecord, organization_id: str, *, keep_unknown_values: bool = False
) -> AuditRecord:
    """Return the record with its organization. Clients with closed enums know fewer actor types here."""
    actor = record.actor
    if not keep_unknown_values and actor.type not in ORGANIZATION_ACTOR_TYPES:
        actor = msgspec.structs.replace(actor, type=None)
    return msgspec.structs.replace(record, organization=Organization(organization_id), actor=actor)


def request_line(record: AuditRecord) -> dict[str, Any]:
    """Return the record as a line of the request log. What was not recorded is None in it."""
    return http_request(
        record.id,
        record.raw,
        record.auditap.exchange,
        # In this field, what strict clients refuse as an e-mail address is allowed.
        user=record.actor_email or record.actor.id,
        client_ip=record.actor.ip_address,
    )


def _exchange(row: Row) -> Exchange | None:
    found = Exchange(row["exchange_host"], row["exchange_duration_ms"], row["exchange_response_bytes"])
    return None if found == _NOT_KNOWN else found


def _actor(row: Row, *, keep_unknown_values: bool) -> Actor:
    context, kind, email = row["actor_context"], row["actor_type"], row["actor_email"]
    if not keep_unknown_values:
        email = email if email is not None and _ADDRESS.fullmatch(email) else None
        context = context if context in ACTOR_CONTEXTS else None
        kind = kind if kind in ACTOR_TYPES else None
    return Actor(
        id=row["actor_id"],
        context=context,
        email=email,
        ip_address=row["actor_ip_address"],
        token_id=row["actor_token_id"],
        token_name=row["actor_token_name"],
        type=kind,
    )


def _object_text(text: str | None, *, keep_unknown_values: bool) -> msgspec.Raw | msgspec.UnsetType:
    if text is None:
        return msgspec.UNSET
    if not keep_unknown_values and _MAY_HOLD_FAR_NUMBER.search(text) is not None:
        text = _STRING_OR_NUMBER.sub(_far_number_as_text, text)
    is_object = text.lstrip(" \t\r\n").startswith("{")
    return _on_one_line(text if is_object else f'{{"value":{text}}}')


def _far_number_as_text(token: re.Match[str]) -> str:
    text = token[0]
    return text if text.startswith('"') or isfinite(float(text)) else f'"{text}"'


def _on_one_line(text: str) -> msgspec.Raw:
    # To JSON a line end between tokens is white space, but NDJSON and event streams end a record there.
    if "\n" in text or "\r" in text:
        text = text.replace("\n", " ").replace("\r", " ")
    return msgspec.Raw(text)


def body_bytes(record: AuditRecord) -> int:
    """Return the size of the record's unbounded parts in the response."""
    parts = (record.resource.request, record.resource.response, record.auditap.receipt)
    return sum(len(part) for part in parts if isinstance(part, msgspec.Raw))


def page_info(count: int, cursor: str | None, complete_before_ms: int | None) -> dict[str, Any]:
    """Return the `result_info` of a page. `cursor` is None on the last page, `complete_before_ms` if it is unknown."""
    complete_before = None if complete_before_ms is None else rfc3339_ms(complete_before_ms)
    info = {"count": count, "complete_before": complete_before}
    if cursor is None:
        return info
    # The SDK follows only `cursors.after`, other clients only `cursor`. Either stops after one page without its own.
    return {**info, "cursor": cursor, "cursors": {"after": cursor}}
