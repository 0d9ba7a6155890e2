"""Requests to the example API, planned from its document: pure, drawn from a generator of random numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from urllib.parse import quote, urlencode

import msgspec

from auditap_example.cast import Caller, accounts, callers, zones
from auditap_example.document import JSON, Operation, base_path, operations
from auditap_example.sample import sample, text

MADE_MAX = 32
_USER_AGENTS = ("Mozilla/5.0 (X11; Linux x86_64)", "curl/8.5.0", "terraform/1.9", "python-httpx/0.28")
_UNROUTED = (
    ("GET", "/wp-login.php", None),
    ("POST", "/accounts/0/legacy/import", b'{"note": "nobody takes this"}'),
    ("PUT", "/zones", b'{"note": "nobody takes this either"}'),
    ("DELETE", "/user/sessions", None),
    ("OPTIONS", "/user", None),
    ("OPTIONS", "/zones", None),
)
_SPOILED = (b"{}", b'{"name": 7, "policies": "all"}', b'{"name": "half a bo', b"[]")
_SHARES = {"GET": 30, "POST": 30, "PUT": 14, "PATCH": 12, "DELETE": 9, "HEAD": 5}


@dataclass(frozen=True, slots=True)
class Planned:
    """A request to send. `operation` is None where the document has none for it; `path` holds the query as well."""

    operation: Operation | None
    caller: Caller
    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(repr=False)


def planned(
    operation: Operation, caller: Caller, rng: Random, params: Mapping[str, str] | None = None
) -> Planned:
    """Return a request of the operation by the caller; `params` are values of path variables that are not drawn."""
    values, query = dict(params or {}), {}
    for parameter in operation.parameters:
        name, schema = parameter["name"], parameter["schema"]
        if parameter["in"] == "path" and name not in values:
            values[name] = _own(name, caller, rng) or sample(schema, rng)
        elif parameter["in"] == "query" and rng.random() < 0.5:
            value = sample(schema, rng)
            query[name] = ",".join(value) if isinstance(value, list) else value
    path = operation.template.format_map({name: quote(value, safe="") for name, value in values.items()})
    path += f"?{urlencode(query, safe=',')}" if query else ""
    media, content = _content(operation, rng)
    headers = _headers(caller, rng, media)
    return Planned(operation, caller, operation.method, base_path() + path, values, headers, content)


def unrouted(caller: Caller, rng: Random) -> Planned:
    """Return a request of no operation: an unknown route or method, or a browser's OPTIONS."""
    method, path, content = rng.choice(_UNROUTED)
    headers = _headers(caller, rng, JSON if content else None)
    return Planned(None, caller, method, base_path() + path, {}, headers, content)


def _own(name: str, caller: Caller, rng: Random) -> str | None:
    """Return an account or zone of the caller's, now and then another one; None for other variables."""
    elsewhere = rng.random() < 0.06
    if name == "account_id":
        return rng.choice(accounts()).id if elsewhere else caller.account.id
    if name == "zone_id":
        return rng.choice([zone for zone in zones() if elsewhere or zone.account == caller.account]).id
    return None


def _headers(caller: Caller, rng: Random, media: str | None) -> dict[str, str]:
    headers = {"user-agent": rng.choice(_USER_AGENTS), "authorization": f"Bearer {caller.credential}"}
    return headers if media is None else headers | {"content-type": media}


def _content(operation: Operation, rng: Random) -> tuple[str | None, bytes | None]:
    """Return the media type and the bytes of a body."""
    if operation.body is None or operation.media is None:
        return None, None
    if operation.media == JSON:
        return JSON, msgspec.json.encode(sample(operation.body, rng))
    if operation.media != "multipart/form-data":
        return operation.media, text(rng, 200, 400).encode()
    form = "".join(
        f'--part\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in sample(operation.body, rng).items()
    )
    return f"{operation.media}; boundary=part", f"{form}--part--\r\n".encode()


class Planner:
    """Plans one request after the other, and learns from the responses which objects exist to act on.

    It remembers the last `MADE_MAX` of each kind: who made it, and the values of its path.
    """

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)  # noqa: S311 (a plan, no secret)
        self._made: dict[str, deque[tuple[Caller, Mapping[str, str]]]] = {}

    def next(self) -> Planned:
        """Return the next request: most are valid, some have a bad body or no route."""
        rng = self._rng
        caller = rng.choice(callers())
        if rng.random() < 0.05:
            return unrouted(caller, rng)
        [method] = rng.choices(list(_SHARES), list(_SHARES.values()))
        operation = rng.choice([each for each in operations() if each.method == method])
        request = self._of(operation, caller)
        if operation.media == JSON and rng.random() < 0.06:
            return replace(request, content=rng.choice(_SPOILED))
        return request

    def _of(self, operation: Operation, caller: Caller) -> Planned:
        known = self._made.get(operation.template)
        if not known or self._rng.random() < 0.1:
            return planned(operation, caller, self._rng)
        maker, params = made = self._rng.choice(known)
        if operation.method == "DELETE":
            known.remove(made)
        return planned(operation, maker, self._rng, params)

    def learn(self, request: Planned, status: int, body: bytes) -> None:
        """Learn from a response: remember the object that it created."""
        operation = request.operation
        if operation is None or not 200 <= status < 300:
            return
        made, params = operation.template, dict(request.params)
        if operation.method == "POST" and (item := _item_of(operation.template)):
            made = item
            params[item.rpartition("{")[2][:-1]] = msgspec.json.decode(body)["result"]["id"]
        elif operation.method != "PUT" or not made.endswith("_name}"):
            return
        known = self._made.setdefault(made, deque(maxlen=MADE_MAX))
        if (request.caller, params) not in known:
            known.append((request.caller, params))


def _item_of(template: str) -> str | None:
    """Return the template of the objects of a collection, if it has one."""
    items = (each.template for each in operations() if each.template.startswith(f"{template}/{{"))
    return next(items, None)
