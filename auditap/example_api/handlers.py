"""What each operation of the example API does: a function from a call to the answer's `result`, by operation id."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from auditap.example_api.cast import Caller
from auditap.example_api.state import Key, Row, State, stored

NAME_SERVERS = ["ada.ns.example.com", "bo.ns.example.com"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request that fits the document, by a caller who may make it. `key` holds the path's values from the left."""

    caller: Caller
    key: Key
    query: Mapping[str, Any]
    body: Any
    state: State


class Problem(Exception):
    """The request is refused with this status; `field` names a part of the document, `conflicting_id` a row."""

    def __init__(
        self, status: int, code: int, message: str, *, field: str = "", conflicting_id: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.conflicting_id = conflicting_id


Handler = Callable[[Call], Any]


def now() -> str:
    """Return the time as answers show it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def not_found() -> Problem:
    """Return the refusal of what is not there."""
    return Problem(404, 7003, "There is no such object")


def row_at(call: Call, kind: str, key: Key | None = None) -> Row:
    """Return the row that the path (or `key`) names. Raises Problem 404."""
    row = call.state.get(kind, call.key if key is None else key)
    if row is None:
        raise not_found()
    return row


def lists(kind: str) -> Handler:
    """List the rows below the path, filtered by the query's equal names, page by page."""

    def handle(call: Call) -> list[Row]:
        filters = {k: v for k, v in call.query.items() if k in ("name", "status", "type")}
        rows = [
            row
            for row in call.state.below(kind, call.key)
            if all(_fits(row, k, v) for k, v in filters.items())
        ]
        size = call.query.get("per_page", 20)
        first = (call.query.get("page", 1) - 1) * size
        return rows[first : first + size]

    return handle


def _fits(row: Row, name: str, wanted: Any) -> bool:
    return row.get(name) in wanted if isinstance(wanted, list) else row.get(name) == wanted


def creates(kind: str, *, unique: tuple[str, ...] = (), hides: tuple[str, ...] = (), **fixed: Any) -> Handler:
    """Store the body below the path under a new id; `hides` are fields that no answer shows.

    Raises Problem 409 where a row has the same `unique` fields already.
    """

    def handle(call: Call) -> Row:
        fields = {name: value for name, value in call.body.items() if name not in hides} | fixed
        for other in call.state.below(kind, call.key) if unique else ():
            if all(other.get(name) == fields.get(name) for name in unique):
                raise Problem(409, 1061, "There is one like it already", conflicting_id=other["id"])
        row = stored(secrets.token_hex(16), fields, now())
        call.state.put(kind, (*call.key, row["id"]), row)
        return row

    return handle


def shows(kind: str) -> Handler:
    """Show the row that the path names."""
    return lambda call: row_at(call, kind)


def replaces(kind: str, *, hides: tuple[str, ...] = (), keeps: tuple[str, ...] = ()) -> Handler:
    """Put the body in the row's place; id, time of creation and the fields that it `keeps` stay."""

    def handle(call: Call) -> Row:
        old = row_at(call, kind)
        fields = {name: value for name, value in call.body.items() if name not in hides}
        kept = {name: old[name] for name in ("id", "created_at", *keeps) if name in old}
        return _put(call, kind, {**fields, **kept})

    return handle


def changes(kind: str) -> Handler:
    """Change those fields of the row that the body has."""
    return lambda call: _put(call, kind, {**row_at(call, kind), **call.body})


def _put(call: Call, kind: str, row: Row) -> Row:
    changed = row | {"modified_at": now()}
    call.state.put(kind, call.key, changed)
    return changed


def removes(kind: str) -> Handler:
    """Forget the row that the path names; show its id."""

    def handle(call: Call) -> Row:
        if not call.state.remove(kind, call.key):
            raise not_found()
        return {"id": call.key[-1]}

    return handle


def only_id(handler: Handler) -> Handler:
    """Show no more than the id of what `handler` shows."""
    return lambda call: {"id": handler(call)["id"]}


def for_the_user(handler: Handler) -> Handler:
    """Let `handler` work below the caller's own user id, which no path of this kind names."""

    def handle(call: Call) -> Any:
        key = (call.caller.user_id, *call.key)
        return handler(Call(caller=call.caller, key=key, query=call.query, body=call.body, state=call.state))

    return handle


def _list_accounts(call: Call) -> list[Row]:
    rows: list[Row] = lists("accounts")(call)
    mine = call.caller.account.id
    return rows if call.caller.everywhere else [row for row in rows if row["id"] == mine]


def _list_zones(call: Call) -> list[Row]:
    rows: list[Row] = lists("zones")(call)
    mine = call.caller.account.id
    return [row for row in rows if call.caller.everywhere or row["account"]["id"] == mine]


def _create_zone(call: Call) -> Row:
    if call.body["account"]["id"] != call.caller.account.id:
        raise Problem(403, 9109, "Not one of your accounts", field="account.id")
    state = {"status": "pending", "paused": False, "name_servers": NAME_SERVERS}
    row: Row = creates("zones", unique=("name",), hides=("notes",), **state)(call)
    return row | {"verification_key": secrets.token_urlsafe(24)}


def _patch_zone(call: Call) -> Row:
    paused = call.body["paused"]
    row = row_at(call, "zones") | {"paused": paused, "status": "paused" if paused else "active"}
    return _put(call, "zones", row)


def _patch_zone_settings(call: Call) -> list[Row]:
    for setting in call.body["items"]:
        call.state.put("zone settings", (*call.key, setting["id"]), setting)
    items: list[Row] = call.body["items"]
    return items


def _purge_cache(call: Call) -> Row:
    return {"id": call.key[0]}


def _create_token(call: Call) -> Row:
    row: Row = creates("tokens", status="active")(call)
    return row | {"value": secrets.token_urlsafe(40)}


def _roll_token(call: Call) -> str:
    row_at(call, "tokens")
    return secrets.token_urlsafe(40)


def _show_billing(call: Call) -> Row:
    return call.state.get("billing", call.key) or {"company": row_at(call, "accounts")["name"]}


def _put_billing(call: Call) -> Row:
    shown = {name: value for name, value in call.body.items() if not name.startswith("card_")}
    call.state.put("billing", call.key, shown)
    return shown


def _record_login(call: Call) -> Row:
    row = {"id": secrets.token_hex(16), "allowed": call.body["allowed"], "created_at": now()}
    return row | ({"session_token": secrets.token_urlsafe(24)} if row["allowed"] else {})


def _run_query(call: Call) -> list[Row]:
    return [{"path": "/cart", "status": 502}, {"path": "/cart/pay", "status": 500}][
        : call.body.get("rows_max")
    ]


def _upload_script(call: Call) -> Row:
    etag = hashlib.blake2b(call.body, digest_size=16).hexdigest()
    row = {"id": call.key[-1], "etag": etag, "size_bytes": len(call.body), "modified_at": now()}
    call.state.put("scripts", call.key, row)
    return row


def _patch_script_settings(call: Call) -> Row:
    row_at(call, "scripts")
    settings = {**(call.state.get("script settings", call.key) or {}), **call.body}
    call.state.put("script settings", call.key, settings)
    return settings


def _put_script_secret(call: Call) -> Row:
    row_at(call, "scripts")
    return {"name": call.body["name"]}


def _head_value(call: Call) -> None:
    row_at(call, "values")


def _put_value(call: Call) -> None:
    row_at(call, "namespaces", call.key[:2])
    call.state.put("values", call.key, {"size_bytes": len(call.body)})


def _delete_value(call: Call) -> None:
    removes("values")(call)


def _enable_two_factor(call: Call) -> Row:
    user = row_at(call, "users")
    call.state.put("users", call.key, user | {"two_factor_enabled": True})
    codes = [secrets.token_hex(4) for _ in range(4)]
    return {"enabled": True, "method": call.body["method"], "recovery_codes": codes}


def _disable_two_factor(call: Call) -> Row:
    user = row_at(call, "users")
    if not user["two_factor_enabled"]:
        raise not_found()
    call.state.put("users", call.key, user | {"two_factor_enabled": False})
    return {"enabled": False}


def _leave(call: Call) -> Row:
    membership = row_at(call, "memberships")
    if membership["status"] == "rejected":
        raise not_found()
    call.state.put("memberships", call.key, membership | {"status": "rejected"})
    return {"id": call.key[-1]}


HANDLERS: Mapping[str, Handler] = {
    "accounts-list": _list_accounts,
    "accounts-get": shows("accounts"),
    "accounts-update": replaces("accounts"),
    "notification-policies-list": lists("policies"),
    "notification-policies-create": only_id(creates("policies")),
    "notification-policies-get": shows("policies"),
    "notification-policies-update": only_id(replaces("policies")),
    "notification-policies-delete": removes("policies"),
    "webhooks-list": lists("webhooks"),
    "webhooks-create": creates("webhooks", hides=("secret", "url")),
    "webhooks-update": replaces("webhooks", hides=("secret", "url")),
    "webhooks-delete": removes("webhooks"),
    "members-list": lists("members"),
    "members-invite": creates("members", unique=("email",), hides=("greeting",), status="pending"),
    "members-update-roles": replaces("members", keeps=("email", "status")),
    "members-remove": removes("members"),
    "tokens-list": lists("tokens"),
    "tokens-create": _create_token,
    "tokens-get": shows("tokens"),
    "tokens-delete": removes("tokens"),
    "tokens-roll": _roll_token,
    "billing-profile-get": _show_billing,
    "billing-profile-update": _put_billing,
    "access-logins-record": _record_login,
    "log-queries-run": _run_query,
    "scripts-list": lists("scripts"),
    "scripts-upload": _upload_script,
    "scripts-delete": removes("scripts"),
    "scripts-settings-patch": _patch_script_settings,
    "scripts-secrets-put": _put_script_secret,
    "namespaces-list": lists("namespaces"),
    "namespaces-create": creates("namespaces", unique=("title",)),
    "namespaces-delete": removes("namespaces"),
    "values-head": _head_value,
    "values-put": _put_value,
    "values-delete": _delete_value,
    "zones-list": _list_zones,
    "zones-create": _create_zone,
    "zones-get": shows("zones"),
    "zones-patch": _patch_zone,
    "zones-delete": removes("zones"),
    "zone-settings-patch": _patch_zone_settings,
    "zones-purge-cache": _purge_cache,
    "dns-records-list": lists("dns records"),
    "dns-records-create": creates("dns records", unique=("type", "name", "content")),
    "dns-records-get": shows("dns records"),
    "dns-records-replace": replaces("dns records"),
    "dns-records-patch": changes("dns records"),
    "dns-records-delete": removes("dns records"),
    "firewall-rules-list": lists("firewall rules"),
    "firewall-rules-create": creates("firewall rules"),
    "firewall-rules-patch": changes("firewall rules"),
    "firewall-rules-delete": removes("firewall rules"),
    "function-routes-list": lists("function routes"),
    "function-routes-create": creates("function routes", unique=("pattern",)),
    "function-routes-update": replaces("function routes"),
    "function-routes-delete": removes("function routes"),
    "user-get": for_the_user(shows("users")),
    "user-patch": for_the_user(changes("users")),
    "user-two-factor-enable": for_the_user(_enable_two_factor),
    "user-two-factor-disable": for_the_user(_disable_two_factor),
    "memberships-list": for_the_user(lists("memberships")),
    "memberships-update": for_the_user(changes("memberships")),
    "memberships-leave": for_the_user(_leave),
    "organizations-create": creates("organizations", unique=("name",)),
    "organizations-get": shows("organizations"),
    "organizations-update": replaces("organizations"),
}
