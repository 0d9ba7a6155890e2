"""Requests to the example API, planned from its document: pure, drawn from a generator of random numbers."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from urllib.parse import quote, urlencode

import msgspec

from auditap.example_api.cast import Caller, accounts, callers, member_id, zones
from auditap.example_api.document import Operation, base_path, operations
from auditap.example_api.sample import Sampler, hex_id, sampler_of, text

JSON = "application/json"
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
_SPOILED = (b"{}", b'{"name": 7, "roles": "all"}', b'{"name": "half a bo', b"[]")
_SHARES = {"GET": 30, "POST": 30, "PUT": 14, "PATCH": 12, "DELETE": 9, "HEAD": 5}
_ZONE = "/zones/{zone_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A request to send. `operation` is None where the document has none for it; `path` holds the query as well."""

    operation: Operation | None
    caller: Caller
    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sampled:
    """An operation with the samplers of all that it takes."""

    operation: Operation
    media: str | None
    body: Sampler | None
    path: Mapping[str, Sampler]
    query: Mapping[str, Sampler]

    @classmethod
    def of(cls, operation: Operation) -> Sampled:
        """Return the operation with its samplers made ready."""
        places: dict[str, dict[str, Sampler]] = {"path": {}, "query": {}}
        for parameter in operation.parameters:
            places[parameter["in"]][parameter["name"]] = sampler_of(parameter["schema"])
        for media, schema in operation.request_media.items():
            return cls(operation, media, sampler_of(schema), places["path"], places["query"])
        return cls(operation, None, None, places["path"], places["query"])


@cache
def sampled_operations() -> tuple[Sampled, ...]:
    """Return every operation of the document, ready to be planned."""
    return tuple(Sampled.of(operation) for operation in operations())


def planned(
    sampled: Sampled, caller: Caller, rng: Random, params: Mapping[str, str] | None = None
) -> Planned:
    """Return a request of the operation by the caller; `params` are values of path variables to take as given."""
    operation = sampled.operation
    values = dict(params or {})
    for name, draw in sampled.path.items():
        if name not in values:
            values[name] = _path_value(name, draw, caller, rng)
    quoted = {name: quote(value, safe="") for name, value in values.items()}
    return Planned(
        operation=operation,
        caller=caller,
        method=operation.method,
        path=base_path() + operation.template.format_map(quoted) + _query(sampled, rng),
        params=values,
        headers=_headers(caller, rng, sampled.media),
        content=_content(sampled, caller, rng),
    )


def unrouted(caller: Caller, rng: Random) -> Planned:
    """Return a request that the document does not have: an unknown route or method, or a browser's OPTIONS."""
    method, path, content = rng.choice(_UNROUTED)
    return Planned(
        operation=None,
        caller=caller,
        method=method,
        path=base_path() + path,
        params={},
        headers=_headers(caller, rng, JSON if content else None),
        content=content,
    )


def _path_value(name: str, draw: Sampler, caller: Caller, rng: Random) -> str:
    """Return an account, zone or membership of the caller's, now and then another one, or what the schema allows."""
    elsewhere = rng.random() < 0.06
    if name == "account_id":
        return rng.choice(accounts()).id if elsewhere else caller.account.id
    if name == "zone_id":
        return rng.choice([zone for zone in zones() if elsewhere or zone.account == caller.account]).id
    if name == "membership_id" and not elsewhere:
        return member_id(caller)
    return str(draw(rng))


def _query(sampled: Sampled, rng: Random) -> str:
    drawn = {name: draw(rng) for name, draw in sampled.query.items() if rng.random() < 0.5}
    pairs = {name: ",".join(value) if isinstance(value, list) else value for name, value in drawn.items()}
    return f"?{urlencode(pairs, safe=',')}" if pairs else ""


def _headers(caller: Caller, rng: Random, media: str | None) -> dict[str, str]:
    headers = {"user-agent": rng.choice(_USER_AGENTS), "authorization": f"Bearer {caller.credential}"}
    return headers if media is None else headers | {"content-type": media}


def _content(sampled: Sampled, caller: Caller, rng: Random) -> bytes | None:
    if sampled.body is None:
        return None
    if sampled.media != JSON:
        return f"// {text(rng, 200, 400)}\n".encode()
    body = sampled.body(rng)
    if sampled.operation.operation_id == "zones-create":
        body["account"] = {"id": caller.account.id}
    return msgspec.json.encode(body)


@dataclass(frozen=True, slots=True)
class Made:
    """Something that a caller made: the values of its path."""

    params: Mapping[str, str]
    caller: Caller


class Planner:
    """Plans one request after the other; it learns from the answers, so as to act on what was made.

    Of each kind of thing it remembers the last `MADE_MAX`.
    """

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)  # noqa: S311 (a plan, no secret)
        self._by_method: dict[str, list[Sampled]] = defaultdict(list)
        for sampled in sampled_operations():
            self._by_method[sampled.operation.method].append(sampled)
        self._made: dict[str, deque[Made]] = {}

    def next(self) -> Planned:
        """Return the next request: good ones most of the time, spoiled and unrouted ones now and then."""
        rng = self._rng
        caller = rng.choice(callers())
        if rng.random() < 0.05:
            return unrouted(caller, rng)
        method = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
        request = self._of(rng.choice(self._by_method[method]), caller)
        if request.headers.get("content-type") == JSON and rng.random() < 0.06:
            return replace(request, content=rng.choice(_SPOILED))
        return request

    def _of(self, sampled: Sampled, caller: Caller) -> Planned:
        operation = sampled.operation
        made = self._made_for(operation.template)
        if made is not None and self._rng.random() < 0.9:
            return planned(sampled, made.caller, self._rng, made.params)
        if operation.template == _ZONE and operation.method == "DELETE":
            # The cast's own zones stay, or everything below them would be 404 after a while.
            return planned(sampled, caller, self._rng, {"zone_id": hex_id(self._rng)})
        return planned(sampled, caller, self._rng)

    def _made_for(self, template: str) -> Made | None:
        """Return something made that the path leads to or through: the nearest kind there is."""
        kinds = [
            kind
            for kind, known in self._made.items()
            if known and (template == kind or (kind != _ZONE and template.startswith(f"{kind}/")))
        ]
        return self._rng.choice(self._made[max(kinds, key=len)]) if kinds else None

    def learn(self, request: Planned, status: int, body: bytes) -> None:
        """Take notice of an answer: remember what was made, forget what was deleted."""
        operation = request.operation
        if operation is None or not 200 <= status < 300:
            return
        if operation.method == "POST" and operation.template in _items():
            template, variable = _items()[operation.template]
            if made_id := _result_id(body):
                self._remember(template, Made({**request.params, variable: made_id}, request.caller))
        elif operation.method == "PUT" and operation.template in _made_by_put():
            self._remember(operation.template, Made(request.params, request.caller))
        elif operation.method == "DELETE":
            self._forget(operation.template, request.params)

    def _remember(self, template: str, made: Made) -> None:
        self._forget(template, made.params)
        self._made.setdefault(template, deque(maxlen=MADE_MAX)).append(made)

    def _forget(self, template: str, params: Mapping[str, str]) -> None:
        known = self._made.get(template, deque())
        for made in [made for made in known if made.params == params]:
            known.remove(made)


@cache
def _items() -> dict[str, tuple[str, str]]:
    """Return, by the template of a collection, the template of its items and the variable that it adds."""
    found = {}
    for operation in operations():
        collection, _, last = operation.template.rpartition("/")
        if last.startswith("{"):
            found[collection] = (operation.template, last[1:-1])
    return found


@cache
def _made_by_put() -> frozenset[str]:
    """Return the templates of things that PUT makes, under a name of the caller's choice."""
    posted = {operation.template for operation in operations() if operation.method == "POST"}
    return frozenset(
        operation.template
        for operation in operations()
        if operation.method == "PUT" and operation.template.endswith("_name}")
        if operation.template.rpartition("/")[0] not in posted
    )


def _result_id(body: bytes) -> str | None:
    try:
        return str(msgspec.json.decode(body)["result"]["id"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
